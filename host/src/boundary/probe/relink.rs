//! Rewrites private copies of libraries so that they link each other by the paths of the copies.
//! Only the entries that name other libraries change; code and data stay the same.
//!
//! The loader compares the name of a linked library with those of all libraries in the process, so
//! two libraries of the same name cannot both be linked by it. A path identifies one file.

use object::read::elf::ProgramHeader;
use object::{Endian, Endianness, elf};

use super::elf::Elf;
use super::format::{Aligned, Image, malformed, text};
use super::on_image;
use crate::error::boundary::ProbeError;

/// Alignment of the appended segment: the largest page size of any processor.
const ALIGN: u64 = 1 << 16;
/// A tag of the dynamic section that no loader reads.
const IGNORED_TAG: u64 = 0x6000_0f00;
/// Maximum number of entries of the list of required versions.
const MAX_VERSIONS: usize = 1 << 16;

/// Sizes of the parts of a 64-bit ELF file.
const PROGRAM_HEADER: usize = 56;
const DYNAMIC_ENTRY: usize = 16;
/// Offsets of fields in the file header.
const E_PHOFF: usize = 32;
const E_PHNUM: usize = 56;

type Header = elf::FileHeader64<Endianness>;

/// The libraries that a library links, and its search path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Links {
    /// The names of the libraries, in their order in the file.
    pub(crate) needs: Vec<String>,
    /// The directories of `DT_RUNPATH`, or of `DT_RPATH` if there is none.
    pub(crate) dirs: Vec<String>,
}

impl Links {
    /// Reads the links of a complete library for this host.
    pub(crate) fn of(bytes: &[u8]) -> Result<Self, ProbeError> {
        if !bytes.starts_with(&elf::ELFMAG) {
            return on_image(bytes, |_| Ok(Self::default()));
        }
        let elf = Aligned::of(bytes);
        let elf = Elf::<Header>::read(&elf)?;
        let dirs = elf.tag(elf::DT_RUNPATH).or_else(|| elf.tag(elf::DT_RPATH));
        let dirs = dirs.and_then(|at| elf.name(at)).map(text).unwrap_or_default();
        let dirs = dirs.split(':').filter(|dir| !dir.is_empty()).map(str::to_owned).collect();
        Ok(Self { needs: Image::needs(&elf)?, dirs })
    }
}

/// Returns a copy that links `by` instead of `name` for each pair. With `is_nameless` the copy has
/// no name, so that the loader never uses it for another library.
pub(crate) fn relinked(
    bytes: &[u8],
    pairs: &[(String, String)],
    is_nameless: bool,
) -> Result<Vec<u8>, ProbeError> {
    let aligned = Aligned::of(bytes);
    let elf = Elf::<Header>::read(&aligned)?;
    let mut strings = elf.strings.to_vec();
    let mut added = Vec::with_capacity(pairs.len());
    for (name, by) in pairs {
        added.push((name.as_bytes(), strings.len() as u64));
        strings.extend_from_slice(by.as_bytes());
        strings.push(0);
    }
    let added = |at: u64| {
        let name = elf.name(at)?;
        added.iter().find(|(target, _)| *target == name).map(|(_, offset)| *offset)
    };
    let mut copy = Patched { bytes: bytes.to_vec(), endian: elf.endian };
    let strings_at = elf.append_to(&mut copy, &strings)?;

    let segment = elf.segment(elf::PT_DYNAMIC).ok_or_else(|| {
        malformed(
            "its dynamic section is \
        missing",
        )
    })?;
    let first = usize_of(segment.p_offset(elf.endian))?;
    for (number, entry) in elf.dynamic.iter().enumerate() {
        let at = first + number * DYNAMIC_ENTRY;
        let (tag, value) =
            (object::read::elf::Dyn::d_tag(entry, elf.endian), entry.d_val.get(elf.endian));
        match tag {
            elf::DT_STRTAB => copy.put_u64(at + 8, strings_at)?,
            elf::DT_STRSZ => copy.put_u64(at + 8, strings.len() as u64)?,
            elf::DT_SONAME if is_nameless => copy.put_u64(at, IGNORED_TAG)?,
            elf::DT_NEEDED => {
                if let Some(by) = added(value) {
                    copy.put_u64(at + 8, by)?;
                }
            }
            _ => {}
        }
    }
    for at in elf.version_name_offsets()? {
        let name = u64::from(copy.u32(at)?);
        if let Some(by) = added(name) {
            let by =
                u32::try_from(by).map_err(|_| malformed("its dynamic string table is too long"))?;
            copy.put(at, &copy.endian.write_u32(by))?;
        }
    }
    Ok(copy.bytes)
}

impl Elf<'_, Header> {
    fn segment(&self, kind: elf::ProgramType) -> Option<&elf::ProgramHeader64<Endianness>> {
        self.segments.iter().find(|segment| segment.p_type(self.endian) == kind)
    }

    /// Appends the segment table and `strings` as a new segment; returns the address of the
    /// strings.
    fn append_to(&self, copy: &mut Patched, strings: &[u8]) -> Result<u64, ProbeError> {
        let endian = self.endian;
        let is_loaded = |s: &elf::ProgramHeader64<Endianness>| s.p_type(endian) == elf::PT_LOAD;
        let loaded = || self.segments.iter().filter(|segment| is_loaded(segment));
        let end = loaded().map(|s| s.p_vaddr(endian).saturating_add(s.p_memsz(endian))).max();
        let align = loaded().map(|s| s.p_align(endian)).max().unwrap_or(0).max(ALIGN);
        let too_large = || malformed("its addresses are too large");
        let vaddr =
            end.and_then(|end| end.checked_next_multiple_of(align)).ok_or_else(too_large)?;
        let offset = (copy.bytes.len() as u64).checked_next_multiple_of(ALIGN);
        // Addresses and file offsets have to be equal modulo the alignment of this segment.
        let offset = offset.ok_or_else(too_large)?;
        let count = self.segments.len() + 1;
        let table = count * PROGRAM_HEADER;
        let size = (table + strings.len()) as u64;
        let last = self.segments.iter().rposition(is_loaded).ok_or_else(too_large)?;

        copy.bytes.resize(usize_of(offset)?, 0);
        for (number, segment) in self.segments.iter().enumerate() {
            let start = copy.bytes.len();
            copy.bytes.extend_from_slice(object::bytes_of(segment));
            if segment.p_type(endian) == elf::PT_PHDR {
                let size = table as u64;
                for (at, value) in [(8, offset), (16, vaddr), (24, vaddr), (32, size), (40, size)] {
                    copy.put_u64(start + at, value)?;
                }
            }
            if number == last {
                let start = copy.bytes.len();
                copy.bytes.resize(start + PROGRAM_HEADER, 0);
                copy.put(start, &copy.endian.write_u32(elf::PT_LOAD.0))?;
                copy.put(start + 4, &copy.endian.write_u32(elf::PF_R.0))?;
                let values = [offset, vaddr, vaddr, size, size, ALIGN];
                for (field, value) in values.into_iter().enumerate() {
                    copy.put_u64(start + 8 + field * 8, value)?;
                }
            }
        }
        copy.bytes.extend_from_slice(strings);
        copy.put_u64(E_PHOFF, offset)?;
        let count = u16::try_from(count).ok().filter(|count| *count < u16::MAX);
        let count = count.ok_or_else(|| malformed("it has too many segments"))?;
        copy.put(E_PHNUM, &endian.write_u16(count))?;
        Ok(vaddr + table as u64)
    }

    /// Returns the file offsets of the file names in the list of required versions.
    fn version_name_offsets(&self) -> Result<Vec<usize>, ProbeError> {
        const WHAT: &str = "its version requirement table";
        let mut offsets = Vec::new();
        let Some(mut address) = self.tag(elf::DT_VERNEED).filter(|address| *address != 0) else {
            return Ok(offsets);
        };
        for _ in 0..MAX_VERSIONS {
            let entry = self.at(WHAT, address, 16)?;
            let offset = entry.as_ptr().addr() - self.bytes.as_ptr().addr();
            offsets.push(offset + 4);
            let next = [entry[12], entry[13], entry[14], entry[15]];
            let next = self.endian.read_u32(next);
            if next == 0 {
                return Ok(offsets);
            }
            address = address.saturating_add(next.into());
        }
        Err(malformed(format!("{WHAT} has no end marker")))
    }
}

/// The copy under construction.
struct Patched {
    bytes: Vec<u8>,
    endian: Endianness,
}

impl Patched {
    fn put(&mut self, at: usize, value: &[u8]) -> Result<(), ProbeError> {
        let end = at.saturating_add(value.len());
        let field = self.bytes.get_mut(at..end);
        field.ok_or_else(|| malformed("a table is outside the file"))?.copy_from_slice(value);
        Ok(())
    }

    fn put_u64(&mut self, at: usize, value: u64) -> Result<(), ProbeError> {
        let value = self.endian.write_u64(value);
        self.put(at, &value)
    }

    fn u32(&self, at: usize) -> Result<u32, ProbeError> {
        let field = self.bytes.get(at..at.saturating_add(4));
        let field = field.and_then(|field| <[u8; 4]>::try_from(field).ok());
        let field = field.ok_or_else(|| malformed("a table is outside the file"))?;
        Ok(self.endian.read_u32(field))
    }
}

fn usize_of(value: u64) -> Result<usize, ProbeError> {
    usize::try_from(value).map_err(|_| malformed("its addresses are too large"))
}
