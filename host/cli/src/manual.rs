//! `hotbay completions` and `hotbay man`: completion scripts and man pages.

use std::fs;

use clap::CommandFactory as _;

use crate::Status;
use crate::args::{Args, Completions, Man};
use crate::failure::Failure;
use crate::output::Out;

pub(crate) fn completions(args: &Completions, out: &mut Out) -> Result<Status, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "hotbay", &mut script);
    out.bytes(&script)?;
    Ok(Status::Success)
}

pub(crate) fn man(args: &Man, out: &mut Out) -> Result<Status, Failure> {
    let mut command = Args::command().disable_help_subcommand(true);
    command.build();
    let Some(folder) = &args.out else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page).map_err(|error| failure(".", &error))?;
        out.bytes(&page)?;
        return Ok(Status::Success);
    };
    let shown = folder.display().to_string();
    fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(command, folder))
        .map_err(|error| failure(&shown, &error))?;
    Ok(Status::Success)
}

fn failure(folder: &str, error: &std::io::Error) -> Failure {
    Failure::io(format!("cannot write man pages to `{folder}`"), error)
}
