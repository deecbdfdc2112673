//! Reads ELF libraries as the loader does: through segments, never through sections. Every address
//! is checked against the content of the file.

use std::collections::HashSet;

use hotbay_plugin::stamp::CAPACITY;
use object::elf::{self, DynamicTag};
use object::read::elf::{Dyn, FileHeader, GnuHashTable, HashTable, ProgramHeader, Sym};
use object::{Endianness, U32};

use super::format::{Image, Pin, check_inside, elf_platform, malformed, text};
use crate::error::boundary::ProbeError;

/// An ELF library, read as the loader does.
pub(super) struct Elf<'d, H: FileHeader> {
    pub(super) bytes: &'d [u8],
    pub(super) endian: Endianness,
    pub(super) segments: &'d [H::ProgramHeader],
    pub(super) dynamic: &'d [H::Dyn],
    /// Ends with a NUL.
    pub(super) strings: &'d [u8],
    pub(super) symbols: &'d [H::Sym],
}

impl<'d, H: FileHeader<Endian = Endianness>> Elf<'d, H> {
    pub(super) fn read(bytes: &'d [u8]) -> Result<Self, ProbeError> {
        check_inside(bytes, "the ELF header", 0, size_of::<H>() as u64)?;
        let header =
            H::parse(bytes).map_err(|_| malformed("its ELF header has an unknown version"))?;
        let endian = header.endian().map_err(|_| {
            malformed(
                "its ELF header has an unknown byte \
            order",
            )
        })?;
        elf_platform(header, endian)?;
        match header.e_type(endian) {
            elf::ET_DYN => {}
            elf::ET_EXEC => return Err(ProbeError::WrongKind { found: "a program" }),
            elf::ET_REL => {
                return Err(ProbeError::WrongKind { found: "an object file (`.o`)" });
            }
            elf::ET_CORE => {
                return Err(ProbeError::WrongKind { found: "a core dump" });
            }
            _ => return Err(malformed("its ELF header has an unknown type")),
        }
        let table = |offset: u64, count: u16, entry: u16, what| {
            check_inside(bytes, what, offset, u64::from(count) * u64::from(entry))
        };
        let (phnum, phentsize) = (header.e_phnum(endian), header.e_phentsize(endian));
        table(header.e_phoff(endian).into(), phnum, phentsize, "the program header table")?;
        let (shnum, shentsize) = (header.e_shnum(endian), header.e_shentsize(endian));
        table(header.e_shoff(endian).into(), shnum, shentsize, "the section header table")?;
        let segments = header
            .program_headers(endian, bytes)
            .map_err(|error| malformed(format!("its program header table is invalid: {error}")))?;

        let mut elf = Self { bytes, endian, segments, dynamic: &[], strings: &[], symbols: &[] };
        elf.check_segments()?;
        elf.dynamic = elf.read_dynamic()?;
        let is_pie = elf.tag(elf::DT_FLAGS_1).is_some_and(|flags| flags & elf::DF_1_PIE.0 != 0);
        if is_pie {
            return Err(ProbeError::WrongKind { found: "a program" });
        }
        elf.strings = elf.read_strings()?;
        elf.symbols = elf.read_symbols()?;
        elf.check_ranges()?;
        Ok(elf)
    }

    /// Checks that mapped segments are inside the file and do not overlap.
    fn check_segments(&self) -> Result<(), ProbeError> {
        let endian = self.endian;
        let mut mapped_to = None;
        for (number, segment) in self.segments.iter().enumerate() {
            let (offset, filesz) = segment.file_range(endian);
            let (vaddr, memsz) = (segment.p_vaddr(endian).into(), segment.p_memsz(endian).into());
            let kind = segment.p_type(endian);
            if kind == elf::PT_INTERP {
                return Err(ProbeError::WrongKind { found: "a program" });
            }
            let name = match kind {
                elf::PT_LOAD => "PT_LOAD",
                elf::PT_DYNAMIC => "PT_DYNAMIC",
                _ => "other",
            };
            let segment_is = |what| malformed(format!("segment {number} ({name}) {what}"));
            if filesz > 0 {
                check_inside(
                    self.bytes,
                    format_args!("segment {number} ({name})"),
                    offset,
                    filesz,
                )?;
            }
            if kind != elf::PT_LOAD {
                continue;
            }
            let end = vaddr.checked_add(memsz).filter(|_| filesz <= memsz);
            let end = end.ok_or_else(|| segment_is("has an impossible size"))?;
            if mapped_to.is_some_and(|before| vaddr < before) {
                return Err(segment_is("overlaps the previous segment"));
            }
            mapped_to = Some(end);
            let align: u64 = segment.p_align(endian).into();
            if align > 1 && (!align.is_power_of_two() || vaddr % align != offset % align) {
                return Err(segment_is("is not aligned"));
            }
        }
        match mapped_to {
            Some(_) => Ok(()),
            None => Err(malformed("it has no loadable segment")),
        }
    }

    /// Reads the entries of the dynamic section before its end marker.
    fn read_dynamic(&self) -> Result<&'d [H::Dyn], ProbeError> {
        const WHAT: &str = "its dynamic section";
        let endian = self.endian;
        let segment =
            self.segments.iter().find(|segment| segment.p_type(endian) == elf::PT_DYNAMIC);
        let segment = segment.ok_or_else(|| malformed(format!("{WHAT} is missing")))?;
        let bytes =
            self.at(WHAT, segment.p_vaddr(endian).into(), segment.p_filesz(endian).into())?;
        if segment.data(endian, self.bytes).ok().map(<[u8]>::as_ptr) != Some(bytes.as_ptr()) {
            return Err(malformed(format!("{WHAT} is mapped from another offset")));
        }
        let entries: &[H::Dyn] = array(WHAT, bytes, bytes.len() / size_of::<H::Dyn>())?;
        match entries.iter().position(|entry| entry.d_tag(endian) == elf::DT_NULL) {
            Some(0) => Err(malformed(format!("{WHAT} is empty"))),
            Some(end) => Ok(&entries[..end]),
            None => Err(malformed(format!("{WHAT} has no end marker"))),
        }
    }

    fn read_strings(&self) -> Result<&'d [u8], ProbeError> {
        const WHAT: &str = "its dynamic string table";
        let (Some(address), Some(size)) = (self.tag(elf::DT_STRTAB), self.tag(elf::DT_STRSZ))
        else {
            return Err(malformed(format!("{WHAT} is missing")));
        };
        let strings = self.at(WHAT, address, size)?;
        // Because of the last NUL, every name ends inside the table.
        if strings.first() != Some(&0) || strings.last() != Some(&0) {
            return Err(malformed(format!("{WHAT} does not begin and end with NUL")));
        }
        if strings.len() > 1 && strings.iter().all(|byte| *byte == 0) {
            return Err(malformed(format!("{WHAT} is all zeros")));
        }
        Ok(strings)
    }

    fn read_symbols(&self) -> Result<&'d [H::Sym], ProbeError> {
        const WHAT: &str = "its dynamic symbol table";
        let address = self.tag(elf::DT_SYMTAB);
        let address = address.ok_or_else(|| malformed(format!("{WHAT} is missing")))?;
        let count = self.symbol_count()?;
        let size = (count as u64).saturating_mul(size_of::<H::Sym>() as u64);
        array(WHAT, self.at(WHAT, address, size)?, count)
    }

    /// Reads the number of symbols from a hash table, the only place that has it.
    fn symbol_count(&self) -> Result<usize, ProbeError> {
        const WHAT: &str = "its symbol hash table";
        let endian = self.endian;
        let damaged = || malformed(format!("{WHAT} is inconsistent"));
        let count = if let Some(address) = self.tag(elf::DT_GNU_HASH) {
            let bytes = self.at_most(WHAT, address, u64::MAX)?;
            let header: &[elf::GnuHashHeader<Endianness>] = array(WHAT, bytes, 1)?;
            let [header] = header else {
                return Err(damaged());
            };
            let bloom_words = header.bloom_count.get(endian);
            let bloom = (bloom_words as usize).checked_mul(size_of::<H::Word>());
            let skip = bloom.and_then(|bloom| bloom.checked_add(size_of_val(header)));
            let rest = skip.and_then(|skip| bytes.get(skip..)).ok_or_else(damaged)?;
            let bucket_count = header.bucket_count.get(endian) as usize;
            let buckets: &[U32<Endianness>] = array(WHAT, rest, bucket_count)?;
            // The loader asserts the former and divides by the latter.
            if !bloom_words.is_power_of_two() || buckets.is_empty() {
                return Err(damaged());
            }
            let base = header.symbol_base.get(endian);
            if buckets.iter().all(|bucket| bucket.get(endian) == 0) {
                base
            } else {
                let table = GnuHashTable::<H>::parse(endian, bytes).map_err(|_| damaged())?;
                table.symbol_table_length(endian).ok_or_else(damaged)?
            }
        } else if let Some(address) = self.tag(elf::DT_HASH) {
            let bytes = self.at_most(WHAT, address, u64::MAX)?;
            let table = HashTable::<H>::parse(endian, bytes).map_err(|_| damaged())?;
            table.symbol_table_length()
        } else {
            return Err(malformed(format!("{WHAT} is missing")));
        };
        usize::try_from(count).map_err(|_| damaged())
    }

    /// Checks the other tables that the loader reads before it runs anything.
    fn check_ranges(&self) -> Result<(), ProbeError> {
        use elf::{
            DT_FINI, DT_FINI_ARRAY, DT_FINI_ARRAYSZ, DT_INIT, DT_INIT_ARRAY, DT_INIT_ARRAYSZ,
            DT_JMPREL, DT_PLTRELSZ, DT_REL, DT_RELA, DT_RELASZ, DT_RELR, DT_RELRSZ, DT_RELSZ,
            DT_VERNEED, DT_VERSYM,
        };
        let ranges: [(DynamicTag, Option<DynamicTag>, &str); 10] = [
            (DT_RELA, Some(DT_RELASZ), "its relocation table"),
            (DT_REL, Some(DT_RELSZ), "its relocation table"),
            (DT_RELR, Some(DT_RELRSZ), "its relative relocation table"),
            (DT_JMPREL, Some(DT_PLTRELSZ), "its PLT relocation table"),
            (DT_INIT_ARRAY, Some(DT_INIT_ARRAYSZ), "its initializer array"),
            (DT_FINI_ARRAY, Some(DT_FINI_ARRAYSZ), "its finalizer array"),
            (DT_INIT, None, "its initializer"),
            (DT_FINI, None, "its finalizer"),
            (DT_VERSYM, None, "its symbol version table"),
            (DT_VERNEED, None, "its version requirement table"),
        ];
        for (address, size, what) in ranges {
            let Some(address) = self.tag(address).filter(|address| *address != 0) else {
                continue;
            };
            let size = size.map_or(Some(1), |size| self.tag(size)).unwrap_or(0);
            if size > 0 {
                self.at(what, address, size)?;
            }
        }
        Ok(())
    }

    /// Returns the value of the last entry with this tag, which the loader uses.
    pub(super) fn tag(&self, tag: DynamicTag) -> Option<u64> {
        let found = self.dynamic.iter().rfind(|entry| entry.d_tag(self.endian) == tag)?;
        Some(found.d_val(self.endian).into())
    }

    /// Returns the `size` bytes that would be mapped at `address`.
    pub(super) fn at(&self, what: &str, address: u64, size: u64) -> Result<&'d [u8], ProbeError> {
        let bytes = self.at_most(what, address, size)?;
        if (bytes.len() as u64) < size {
            return Err(malformed(format!("{what} extends beyond its segment")));
        }
        Ok(bytes)
    }

    /// Returns at most `size` bytes at `address`, up to the end of the segment.
    fn at_most(&self, what: &str, address: u64, size: u64) -> Result<&'d [u8], ProbeError> {
        let mut loaded =
            self.segments.iter().filter(|segment| segment.p_type(self.endian) == elf::PT_LOAD);
        let found = loaded.find_map(|segment| {
            let data = segment.data(self.endian, self.bytes).ok()?;
            let skip = address.checked_sub(segment.p_vaddr(self.endian).into())?;
            data.get(usize::try_from(skip).ok()?..).filter(|rest| !rest.is_empty())
        });
        let rest =
            found.ok_or_else(|| malformed(format!("{what} is outside all loadable segments")))?;
        Ok(&rest[..usize::try_from(size).unwrap_or(usize::MAX).min(rest.len())])
    }

    /// Returns the name at `offset`, with its NUL and everything after it.
    fn name_and_rest(&self, offset: u64) -> Option<&'d [u8]> {
        self.strings.get(usize::try_from(offset).ok()?..)
    }

    pub(super) fn name(&self, offset: u64) -> Option<&'d [u8]> {
        self.name_and_rest(offset)?.split(|byte| *byte == 0).next()
    }

    fn exported(&self) -> impl Iterator<Item = &'d H::Sym> {
        let endian = self.endian;
        self.symbols.iter().filter(move |symbol| {
            symbol.st_shndx(endian) != elf::SHN_UNDEF && symbol.st_bind() != elf::STB_LOCAL
        })
    }
}

impl<'d, H: FileHeader<Endian = Endianness>> Image<'d> for Elf<'d, H> {
    fn needs(&self) -> Result<Vec<String>, ProbeError> {
        let needed = self.dynamic.iter().filter(|entry| entry.d_tag(self.endian) == elf::DT_NEEDED);
        needed
            .map(|entry| self.name(entry.d_val(self.endian).into()).map(text))
            .map(|name| name.ok_or_else(|| malformed("a needed library has an invalid name")))
            .collect()
    }

    fn symbol(&self, name: &str, limit: u64) -> Result<Option<&'d [u8]>, ProbeError> {
        let has_name = |symbol: &&H::Sym| {
            let found = self.name_and_rest(symbol.st_name(self.endian).into());
            let rest = found.and_then(|found| found.strip_prefix(name.as_bytes()));
            rest.is_some_and(|rest| rest.first() == Some(&0))
        };
        let Some(symbol) = self.exported().find(has_name) else {
            return Ok(None);
        };
        let size = match symbol.st_size(self.endian).into() {
            0 => limit.min(CAPACITY as u64),
            size => size.min(limit),
        };
        self.at_most("its description", symbol.st_value(self.endian).into(), size).map(Some)
    }

    fn exports(&self) -> Result<Vec<String>, ProbeError> {
        let name = |symbol: &H::Sym| self.name(symbol.st_name(self.endian).into()).map(text);
        let names: Option<Vec<String>> = self.exported().map(name).collect();
        names.ok_or_else(|| malformed("a symbol has an invalid name"))
    }

    fn imports(&self) -> Result<HashSet<&'d [u8]>, ProbeError> {
        let imported =
            self.symbols.iter().filter(|symbol| symbol.st_shndx(self.endian) == elf::SHN_UNDEF);
        let names = imported.map(|symbol| self.name(symbol.st_name(self.endian).into()));
        let names: Option<HashSet<&[u8]>> = names.collect();
        names.ok_or_else(|| malformed("a symbol has an invalid name"))
    }

    fn pin(&self) -> Option<Pin> {
        let flags = self.tag(elf::DT_FLAGS_1).unwrap_or(0);
        if flags & elf::DF_1_NODELETE.0 != 0 {
            return Some(Pin::NoDelete);
        }
        let is_unique = |symbol: &&H::Sym| symbol.st_bind() == elf::STB_GNU_UNIQUE;
        let mut unique = self.exported().filter(is_unique);
        let first = self.name(unique.next()?.st_name(self.endian).into());
        let first = first.map(text).unwrap_or_default();
        Some(Pin::UniqueSymbols { first, count: 1 + unique.count() })
    }

    fn is_static_tls(&self) -> bool {
        let flags = self.tag(elf::DT_FLAGS).unwrap_or(0);
        flags & elf::DF_STATIC_TLS.0 != 0
    }
}

fn array<'d, T: object::Pod>(
    what: &str,
    bytes: &'d [u8],
    count: usize,
) -> Result<&'d [T], ProbeError> {
    let read = object::slice_from_bytes(bytes, count);
    read.map(|(items, _)| items)
        .map_err(|()| malformed(format!("{what} is truncated or misaligned")))
}
