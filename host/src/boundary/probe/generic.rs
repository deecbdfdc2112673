//! Reads Mach-O and PE libraries with `object`. Knows only the names that `object` gives their
//! parts.

use object::read::{ExportTarget, NameOrOrdinal};
use object::{Architecture, Object, ObjectKind, ObjectSegment};

use super::format::{Image, Platform, check_inside, malformed, text};
use crate::error::boundary::ProbeError;

/// A Mach-O or PE library.
pub(super) struct Generic<'d>(object::File<'d>);

impl<'d> Generic<'d> {
    pub(super) fn read(bytes: &'d [u8]) -> Result<Self, ProbeError> {
        let file = object::File::parse(bytes).map_err(damaged)?;
        let format = match file.format() {
            object::BinaryFormat::MachO => "Mach-O",
            _ => "PE",
        };
        let other;
        let arch = match file.architecture() {
            Architecture::X86_64 => "x86_64",
            Architecture::I386 => "x86",
            Architecture::Aarch64 => "aarch64",
            Architecture::Arm => "arm",
            arch => {
                other = format!("{arch:?}");
                &other
            }
        };
        let bits = if file.is_64() { 64 } else { 32 };
        Platform { format, arch, bits, is_little_endian: file.is_little_endian() }.check()?;
        match file.kind() {
            ObjectKind::Dynamic => {}
            ObjectKind::Executable => return Err(ProbeError::WrongKind { found: "a program" }),
            ObjectKind::Relocatable => {
                return Err(ProbeError::WrongKind { found: "an object file" });
            }
            _ => {
                return Err(ProbeError::WrongKind { found: "a bundle, driver or similar" });
            }
        }
        for (number, segment) in file.segments().enumerate() {
            let (offset, size) = segment.file_range();
            check_inside(bytes, format_args!("segment {number}"), offset, size)?;
        }
        Ok(Self(file))
    }
}

impl<'d> Image<'d> for Generic<'d> {
    fn needs(&self) -> Result<Vec<String>, ProbeError> {
        let libraries = self.0.import_libraries().map_err(damaged)?;
        libraries.map(|library| library.map(|found| text(found.name())).map_err(damaged)).collect()
    }

    fn symbol(&self, name: &str, limit: u64) -> Result<Option<&'d [u8]>, ProbeError> {
        for export in self.0.exports().map_err(damaged)? {
            let export = export.map_err(damaged)?;
            // Mach-O adds an underscore to C names.
            let is_named = matches!(export.name(), NameOrOrdinal::Name(found)
                if found.strip_prefix(b"_").unwrap_or(found) == name.as_bytes());
            let ExportTarget::Address { address } = export.target() else {
                continue;
            };
            if is_named {
                let read = |segment: object::Segment<'d, '_>| {
                    let offset = address.checked_sub(segment.address())?;
                    let rest = segment.data().ok()?.get(usize::try_from(offset).ok()?..)?;
                    // The format does not state how many bytes the symbol has.
                    let length = rest.len().min(usize::try_from(limit).ok()?);
                    (length > 0).then(|| &rest[..length])
                };
                let outside = || malformed("its description is outside all loadable segments");
                return self.0.segments().find_map(read).ok_or_else(outside).map(Some);
            }
        }
        Ok(None)
    }

    fn exports(&self) -> Result<Vec<String>, ProbeError> {
        let mut names = Vec::new();
        for export in self.0.exports().map_err(damaged)? {
            names.push(match export.map_err(damaged)?.name() {
                NameOrOrdinal::Name(name) => text(name),
                NameOrOrdinal::Ordinal(number) => format!("#{number}"),
            });
        }
        Ok(names)
    }
}

fn damaged(error: object::Error) -> ProbeError {
    malformed(error.to_string())
}
