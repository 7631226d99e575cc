//! Reads from an object what its functions take of the stack and whom they call.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, iter};

use anyhow::{Context, Result};
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SymbolKind};

use super::stack::{Function, Place};

/// The register that holds the frame's upper end.
const FRAME_POINTER: usize = 10;
/// The registers that a call leaves undefined.
const SCRATCH_REGISTERS: usize = 6;

/// Bytes of an instruction.
const SIZE: u64 = 8;

/// The classes of instructions that reach memory, and those of arithmetic: linux/bpf.h.
const LOAD_IMMEDIATE: u8 = 0x00;
const LOAD: u8 = 0x01;
const STORE_IMMEDIATE: u8 = 0x02;
const STORE: u8 = 0x03;
const ARITHMETIC_32: u8 = 0x04;
const ARITHMETIC_64: u8 = 0x07;
/// `BPF_LD | BPF_IMM | BPF_DW`: takes the place of two instructions.
const LOAD_IMMEDIATE_64: u8 = 0x18;
/// `BPF_ALU64 | BPF_MOV | BPF_X` and `BPF_ALU64 | BPF_ADD | BPF_K`.
const MOVE: u8 = 0xbf;
const ADD: u8 = 0x07;
/// `BPF_JMP | BPF_CALL`, and `BPF_PSEUDO_CALL` as its source: a call of a function of the object.
const CALL: u8 = 0x85;
const PSEUDO_CALL: usize = 1;

/// One instruction, `struct bpf_insn` of linux/bpf.h.
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    target: usize,
    source: usize,
    offset: i64,
    immediate: i64,
}

impl Instruction {
    fn of(bytes: &[u8; SIZE as usize]) -> Self {
        let [code, registers, o1, o2, i1, i2, i3, i4] = *bytes;
        Self {
            code,
            target: usize::from(registers & 0xf),
            source: usize::from(registers >> 4),
            offset: i16::from_le_bytes([o1, o2]).into(),
            immediate: i32::from_le_bytes([i1, i2, i3, i4]).into(),
        }
    }

    fn class(self) -> u8 {
        self.code & 0x07
    }
}

/// The functions of the object at `path`, by place.
///
/// # Errors
/// It is no object, or not whole.
pub(super) fn read(path: &Path) -> Result<BTreeMap<Place, Function>> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let file = object::File::parse(&*bytes).with_context(|| format!("read {}", path.display()))?;
    let mut functions = BTreeMap::new();
    for symbol in file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text)
    {
        let (Some(section), name) = (symbol.section_index(), symbol.name()?) else {
            continue;
        };
        let section = file.section_by_index(section)?;
        let code = section
            .data_range(symbol.address(), symbol.size())?
            .with_context(|| format!("{name} is not whole"))?;
        let place = (section.index().0, symbol.address());
        let targets = targets(&file, &section);
        let function = Function {
            name: readable(name),
            frame: frame(code),
            calls: calls(code, place, &targets),
        };
        functions.insert(place, function);
    }
    Ok(functions)
}

/// What the instructions of a section refer to, by their offsets: a symbol's place, and whether it is a
/// function or a whole section, into which the instruction then says how far.
fn targets(
    file: &object::File<'_>,
    section: &object::Section<'_, '_>,
) -> BTreeMap<u64, (Place, bool)> {
    let of_symbol = |(offset, relocation): (u64, object::Relocation)| {
        let RelocationTarget::Symbol(index) = relocation.target() else {
            return None;
        };
        let symbol = file.symbol_by_index(index).ok()?;
        let place = (symbol.section_index()?.0, symbol.address());
        match symbol.kind() {
            SymbolKind::Text => Some((offset, (place, true))),
            SymbolKind::Section => Some((offset, (place, false))),
            _ => None,
        }
    };
    section.relocations().filter_map(of_symbol).collect()
}

/// Instructions with their offsets in the function.
fn instructions(code: &[u8]) -> impl Iterator<Item = (u64, Instruction)> {
    let (words, _) = code.as_chunks::<{ SIZE as usize }>();
    let mut index = 0;
    iter::from_fn(move || {
        let at = index;
        let instruction = Instruction::of(words.get(at)?);
        index += if instruction.code == LOAD_IMMEDIATE_64 {
            2
        } else {
            1
        };
        Some((at as u64 * SIZE, instruction))
    })
}

/// Bytes of the frame of a function: the lowest byte below the frame pointer that it reaches, or makes
/// a pointer to. A pointer into the frame is made right where it is needed, so jumps need not be
/// followed.
fn frame(code: &[u8]) -> u32 {
    let mut lowest = 0;
    let mut offsets: [Option<i64>; 16] = [None; 16];
    offsets[FRAME_POINTER] = Some(0);
    for (_, instruction) in instructions(code) {
        let Instruction {
            target,
            source,
            offset,
            immediate,
            ..
        } = instruction;
        let mut reach = |register: usize| {
            if let Some(base) = offsets[register] {
                lowest = lowest.min(base + offset);
            }
        };
        match instruction.class() {
            LOAD => reach(source),
            STORE | STORE_IMMEDIATE => reach(target),
            _ => {}
        }
        match (instruction.code, instruction.class()) {
            (CALL, _) => offsets[..SCRATCH_REGISTERS].fill(None),
            (MOVE, _) => offsets[target] = offsets[source],
            (ADD, _) => {
                offsets[target] = offsets[target].map(|base| base + immediate);
                lowest = lowest.min(offsets[target].unwrap_or(0));
            }
            (_, LOAD | LOAD_IMMEDIATE | ARITHMETIC_32 | ARITHMETIC_64) => offsets[target] = None,
            _ => {}
        }
    }
    u32::try_from(-lowest).unwrap_or(u32::MAX)
}

/// The functions that one at `place` calls, and those whose address it takes: nothing is done with an
/// address but to give it to a helper, which calls back.
fn calls(code: &[u8], place: Place, targets: &BTreeMap<u64, (Place, bool)>) -> Vec<Place> {
    let (section, begin) = place;
    let callee = |(offset, instruction): (u64, Instruction)| {
        let is_call = instruction.code == CALL && instruction.source == PSEUDO_CALL;
        let addend = if is_call {
            (instruction.immediate + 1) * SIZE as i64
        } else {
            instruction.immediate
        };
        let target = targets.get(&(begin + offset));
        match (instruction.code, target) {
            (CALL | LOAD_IMMEDIATE_64, Some((place, true))) => Some(*place),
            (CALL | LOAD_IMMEDIATE_64, Some(((section, base), false))) => {
                Some((*section, base.checked_add_signed(addend)?))
            }
            (CALL, None) if is_call => {
                Some((section, (begin + offset).checked_add_signed(addend)?))
            }
            _ => None,
        }
    };
    instructions(code).filter_map(callee).collect()
}

/// The last two parts of a function's path, which are its module's name and its own.
fn readable(name: &str) -> String {
    let path = format!("{:#}", rustc_demangle::demangle(name));
    let mut parts: Vec<&str> = path.rsplit("::").take(2).collect();
    parts.reverse();
    parts.join("::")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An instruction, as `struct bpf_insn` has it.
    fn instruction(code: u8, target: u8, source: u8, offset: i16, immediate: i32) -> [u8; 8] {
        let ([o1, o2], [i1, i2, i3, i4]) = (offset.to_le_bytes(), immediate.to_le_bytes());
        [code, target | source << 4, o1, o2, i1, i2, i3, i4]
    }

    /// `*(u32 *)(r10 + offset) = r1`.
    fn spill(offset: i16) -> [u8; 8] {
        instruction(0x63, 10, 1, offset, 0)
    }

    #[test]
    fn frame_reaches_to_the_lowest_byte_that_is_written() {
        assert_eq!(frame(&[spill(-8), spill(-44), spill(-16)].concat()), 44);
        assert_eq!(frame(&[]), 0);
    }

    #[test]
    fn pointer_into_the_frame_counts_until_its_register_is_used_anew() {
        let pointer = instruction(MOVE, 2, 10, 0, 0);
        let lowered = instruction(ADD, 2, 0, 0, -80);
        assert_eq!(frame(&[pointer, lowered].concat()), 80);
        // r2 = *(u64 *)(r1 + 0); r2 += -80
        let loaded = instruction(0x79, 2, 1, 0, 0);
        assert_eq!(frame(&[pointer, loaded, lowered].concat()), 0);
        let call = instruction(CALL, 0, 0, 0, 1);
        assert_eq!(frame(&[pointer, call, lowered].concat()), 0);
    }

    #[test]
    fn call_is_found_by_its_distance_its_symbol_or_its_section() {
        let near = instruction(CALL, 0, 1, 0, 2);
        let by_symbol = instruction(CALL, 0, 1, 0, -1);
        let into_section = instruction(CALL, 0, 1, 0, 9);
        let helper = instruction(CALL, 0, 0, 0, 181);
        let code = [near, by_symbol, into_section, helper].concat();
        let targets = BTreeMap::from([(108, ((4, 16), true)), (116, ((5, 0), false))]);
        let found = calls(&code, (3, 100), &targets);
        assert_eq!(found, [(3, 124), (4, 16), (5, 80)]);
    }

    #[test]
    fn function_that_is_handed_to_a_helper_counts_as_called() {
        let address = instruction(LOAD_IMMEDIATE_64, 2, 0, 0, 48);
        let upper = instruction(0, 0, 0, 0, 0);
        let code = [address, upper].concat();
        let targets = BTreeMap::from([(0, ((4, 0), false))]);
        assert_eq!(calls(&code, (3, 0), &targets), [(4, 48)]);
        // A map has no place among functions.
        assert_eq!(calls(&code, (3, 0), &BTreeMap::new()), []);
    }

    #[test]
    fn mangled_name_is_read_as_module_and_function() {
        let mangled = "_RNvNtCscR8p599pKPp_23fairlead_dataplane_ebpf8schedule4next";
        assert_eq!(readable(mangled), "schedule::next");
        assert_eq!(readable("xdp_ingress"), "xdp_ingress");
    }
}
