//! A process plugin compared with a handwritten alternative: a hyper client, a hyper server in
//! another process, and no supervision.

mod bare;
mod batch;
mod calls;
mod crowd;
pub(crate) mod isolated;
mod setup;
mod starts;

pub(crate) use bare::serve as bare_server;
use setup::Place;

use crate::table::Report;

pub(crate) fn measure(quick: bool, report: &Report) -> anyhow::Result<()> {
    let place = Place::new()?;
    calls::measure(&place, quick, report)?;
    batch::measure(&place, quick, report)?;
    crowd::measure(&place, quick, report)?;
    starts::measure(&place, quick, report)
}
