//! A pickle's instructions, interpreted into plain data: nothing is imported, called or executed.
//!
//! A pickle is a program for a small stack machine. This one knows the instructions that PyTorch writes, and
//! makes numbers, texts, lists, dictionaries and descriptions of tensors; functions are looked up in
//! [`globals`](super::globals) and stand for data. Instructions: Python's `pickletools`.
//!
//! Values refer to lists, dictionaries and tensors by number, so nothing here is nested in memory: neither a
//! cycle nor a tower of lists can exhaust the stack, and every byte that is kept is paid for from one
//! [budget](Heap::spend).

use std::{collections::HashMap, sync::Arc};

use super::{
    Failure,
    globals::{self, Known},
    zip::number,
};
use crate::checkpoint::header::DType;

/// Bytes that the data of a pickle may take in memory, beside the stack and the memo.
const BUDGET: usize = 64 << 20;
/// Values on the stack, and values that are remembered.
const MAX_STACK: usize = 500_000;
const MAX_MEMO: usize = 500_000;
/// Bytes of a name of a function, or of a number that is written out.
const MAX_LINE: usize = 1000;
/// Dimensions of a tensor.
const MAX_RANK: usize = 16;

/// A value. Everything but texts is copied by value.
#[derive(Debug, Clone)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// A whole number that is too long for [`Value::Int`], little-endian.
    Long(Arc<[u8]>),
    Float(f64),
    Text(Arc<str>),
    /// A list, tuple or dictionary: [`Heap::objects`].
    Object(u32),
    /// [`Heap::storages`]
    Storage(u32),
    /// [`Heap::tensors`]
    Tensor(u32),
    Known(Known),
    /// Something that is of no use here, like a set or the state of a random generator.
    Opaque,
}

/// What can hold other values.
#[derive(Debug)]
pub(super) enum Object {
    List(Vec<Value>),
    /// In the order of writing; where a key is there twice, the later one counts.
    Dict(Vec<(Value, Value)>),
    /// The same, which takes what is said of its attributes for its contents.
    ParameterDict(Vec<(Value, Value)>),
}

/// The numbers of some tensors, which follow the pickle or are members of the archive.
#[derive(Debug, Clone)]
pub(super) struct Storage {
    /// The name of the data.
    pub(super) key: Arc<str>,
    /// Type of the numbers; `None` if tensors say it themselves.
    pub(super) dtype: Option<DType>,
    /// First number that belongs to it, from the beginning of the data.
    pub(super) first: u64,
    /// How many numbers it has, bytes if they have no type.
    pub(super) count: u64,
}

/// A tensor as a view of a storage.
#[derive(Debug, Clone)]
pub(super) struct View {
    /// [`Heap::storages`]
    pub(super) storage: u32,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    /// In elements, as many as dimensions.
    pub(super) strides: Vec<usize>,
    /// First element, from the storage's first.
    pub(super) offset: u64,
}

/// All that was made so far.
#[derive(Debug, Default)]
pub(super) struct Heap {
    pub(super) objects: Vec<Object>,
    pub(super) storages: Vec<Storage>,
    pub(super) tensors: Vec<View>,
    /// Storages by name, first number and count, so that those of many tensors are one.
    known_storages: HashMap<(Arc<str>, u64, u64), u32>,
    spent: usize,
}

impl Heap {
    /// Pays for memory that is kept: at least as much as it takes, room for growth included.
    fn spend(&mut self, bytes: usize) -> Result<(), Failure> {
        self.spent = self.spent.saturating_add(bytes);
        match self.spent <= BUDGET {
            true => Ok(()),
            false => Err(Failure::TooMuch("holds more objects than any model needs".into())),
        }
    }

    fn add(&mut self, object: Object) -> Result<Value, Failure> {
        self.spend(2 * size_of::<Object>())?;
        self.objects.push(object);
        Ok(Value::Object(index(self.objects.len() - 1)))
    }

    fn add_list(&mut self, values: Vec<Value>) -> Result<Value, Failure> {
        self.spend(2 * size_of::<Value>() * values.len())?;
        self.add(Object::List(values))
    }

    fn text(&mut self, text: &str) -> Result<Value, Failure> {
        self.spend(32 + text.len())?;
        Ok(Value::Text(text.into()))
    }

    /// The values of a list or tuple.
    pub(super) fn list(&self, value: &Value) -> Option<&[Value]> {
        match value {
            Value::Object(at) => match &self.objects[*at as usize] {
                Object::List(values) => Some(values),
                _ => None,
            },
            _ => None,
        }
    }

    /// The pairs of a dictionary.
    pub(super) fn dict(&self, value: &Value) -> Option<&[(Value, Value)]> {
        match value {
            Value::Object(at) => match &self.objects[*at as usize] {
                Object::Dict(pairs) | Object::ParameterDict(pairs) => Some(pairs),
                Object::List(_) => None,
            },
            _ => None,
        }
    }

    /// What a dictionary has under a name.
    pub(super) fn get(&self, value: &Value, name: &str) -> Option<&Value> {
        let named = |key: &Value| matches!(key, Value::Text(text) if **text == *name);
        self.dict(value)?.iter().rev().find(|(key, _)| named(key)).map(|(_, value)| value)
    }

    /// The whole numbers of a tuple, none of them negative.
    fn sizes(&self, value: &Value) -> Option<Vec<usize>> {
        let one = |value: &Value| match value {
            Value::Int(number) => usize::try_from(*number).ok(),
            _ => None,
        };
        let list = self.list(value)?;
        if list.len() > MAX_RANK {
            return None;
        }
        list.iter().map(one).collect()
    }
}

fn index(at: usize) -> u32 {
    u32::try_from(at).expect("the budget ends long before")
}

/// Interprets one pickle. Returns what it makes, and how many bytes it has.
pub(super) fn run(bytes: &[u8], heap: &mut Heap) -> Result<(Value, usize), Failure> {
    let mut machine =
        Machine { bytes, at: 0, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), heap };
    loop {
        if let Some(value) = machine.step()? {
            return Ok((value, machine.at));
        }
    }
}

struct Machine<'b, 'h> {
    bytes: &'b [u8],
    at: usize,
    stack: Vec<Value>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    heap: &'h mut Heap,
}

impl<'b> Machine<'b, '_> {
    /// One instruction. Returns the pickle's value at its end.
    fn step(&mut self) -> Result<Option<Value>, Failure> {
        match self.take(1)?[0] {
            b'.' => return self.pop().map(Some),
            // The version of the format, and how long what follows is.
            0x80 => self.take(1).map(drop)?,
            0x95 => self.take(8).map(drop)?,
            b'(' => {
                self.check_room()?;
                self.marks.push(self.stack.len());
            }
            b'0' => self.pop().map(drop)?,
            b'1' => self.pop_mark().map(drop)?,
            b'2' => {
                let top = self.top()?.clone();
                self.push(top)?;
            }
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'K' => self.unsigned::<1>()?,
            b'M' => self.unsigned::<2>()?,
            b'J' => {
                let number = self.number::<4>()? as u32 as i32;
                self.push(Value::Int(i64::from(number)))?;
            }
            b'I' => {
                let text = self.line()?;
                let value = match &*text {
                    "00" => Value::Bool(false),
                    "01" => Value::Bool(true),
                    text => Value::Int(text.parse().map_err(|_| broken("a number is none"))?),
                };
                self.push(value)?;
            }
            b'G' => {
                let bytes = self.take(8)?.first_chunk().copied().ok_or(Failure::Ends)?;
                self.push(Value::Float(f64::from_be_bytes(bytes)))?;
            }
            0x8a => self.long::<1>()?,
            0x8b => self.long::<4>()?,
            b'X' => self.text::<4>()?,
            0x8c => self.text::<1>()?,
            0x8d => self.text::<8>()?,
            // Texts of Python 2.
            b'U' => self.text::<1>()?,
            b'T' => self.text::<4>()?,
            b'C' => self.raw::<1>()?,
            b'B' => self.raw::<4>()?,
            0x8e | 0x96 => self.raw::<8>()?,
            b']' | b')' => self.push_list(Vec::new())?,
            b't' => {
                let values = self.pop_mark()?;
                self.push_list(values)?;
            }
            0x85..=0x87 => self.short_tuple()?,
            b'}' => {
                let dict = self.heap.add(Object::Dict(Vec::new()))?;
                self.push(dict)?;
            }
            0x8f => self.push(Value::Opaque)?,
            0x91 => {
                self.pop_mark()?;
                self.push(Value::Opaque)?;
            }
            b'a' => {
                let value = self.pop()?;
                self.append(vec![value])?;
            }
            b'e' => {
                let values = self.pop_mark()?;
                self.append(values)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(vec![key, value])?;
            }
            b'u' => {
                let values = self.pop_mark()?;
                self.set_items(values)?;
            }
            0x90 => {
                self.pop_mark()?;
                match self.top()? {
                    Value::Opaque => {}
                    _ => return Err(broken("it adds to something that is no set")),
                }
            }
            b'q' => self.remember::<1>()?,
            b'r' => self.remember::<4>()?,
            0x94 => self.remember_at(index(self.memo.len().min(MAX_MEMO)))?,
            b'h' => self.recall::<1>()?,
            b'j' => self.recall::<4>()?,
            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                self.push_global(&module, &name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(module), Value::Text(name)) = (module, name) else {
                    return Err(broken("the name of a function is no text"));
                };
                self.push_global(&module, &name)?;
            }
            b'R' => {
                let arguments = self.pop()?;
                let function = self.pop()?;
                let value = self.call(&function, &arguments)?;
                self.push(value)?;
            }
            0x81 => {
                let _arguments = self.pop()?;
                let class = self.pop()?;
                let value = self.make(&class)?;
                self.push(value)?;
            }
            b'b' => {
                let state = self.pop()?;
                self.build(&state)?;
            }
            b'Q' => {
                let id = self.pop()?;
                let value = self.persistent(&id)?;
                self.push(value)?;
            }
            other => {
                return Err(Failure::Refused(format!(
                    "uses the pickle instruction 0x{other:02x}{}, which PyTorch does not write",
                    match other {
                        b'!'..=b'~' => format!(" (`{}`)", char::from(other)),
                        _ => String::new(),
                    }
                )));
            }
        }
        Ok(None)
    }

    fn take(&mut self, count: usize) -> Result<&'b [u8], Failure> {
        let end = self.at.checked_add(count).ok_or(Failure::Ends)?;
        let bytes = self.bytes.get(self.at..end).ok_or(Failure::Ends)?;
        self.at = end;
        Ok(bytes)
    }

    /// An unsigned number of up to eight bytes.
    fn number<const N: usize>(&mut self) -> Result<u64, Failure> {
        number::<N>(self.take(N)?, 0).ok_or(Failure::Ends)
    }

    /// As many bytes as the length in front of them says.
    fn counted<const N: usize>(&mut self) -> Result<&'b [u8], Failure> {
        let length = usize::try_from(self.number::<N>()?).map_err(|_| Failure::Ends)?;
        self.take(length)
    }

    fn line(&mut self) -> Result<String, Failure> {
        let rest = &self.bytes[self.at..];
        let start = &rest[..rest.len().min(MAX_LINE)];
        let Some(end) = start.iter().position(|&byte| byte == b'\n') else {
            return Err(match start.len() == MAX_LINE {
                true => broken("a name or number is too long for one"),
                false => Failure::Ends,
            });
        };
        let line = String::from_utf8_lossy(self.take(end + 1)?.trim_ascii_end()).into_owned();
        Ok(line)
    }

    fn check_room(&self) -> Result<(), Failure> {
        match self.stack.len().max(self.marks.len()) < MAX_STACK {
            true => Ok(()),
            false => Err(Failure::TooMuch("stacks more values than any model needs".into())),
        }
    }

    fn push(&mut self, value: Value) -> Result<(), Failure> {
        self.check_room()?;
        self.stack.push(value);
        Ok(())
    }

    fn push_list(&mut self, values: Vec<Value>) -> Result<(), Failure> {
        let list = self.heap.add_list(values)?;
        self.push(list)
    }

    /// The value on top, above the last mark.
    fn top(&self) -> Result<&Value, Failure> {
        let floor = self.marks.last().copied().unwrap_or_default();
        self.stack[floor..].last().ok_or_else(|| broken("a value is missing"))
    }

    fn pop(&mut self) -> Result<Value, Failure> {
        self.top()?;
        self.stack.pop().ok_or_else(|| broken("a value is missing"))
    }

    /// Everything above the last mark.
    fn pop_mark(&mut self) -> Result<Vec<Value>, Failure> {
        let mark = self.marks.pop().ok_or_else(|| broken("a mark is missing"))?;
        Ok(self.stack.split_off(mark))
    }

    fn unsigned<const N: usize>(&mut self) -> Result<(), Failure> {
        let number = self.number::<N>()?;
        self.push(Value::Int(number as i64))
    }

    fn long<const N: usize>(&mut self) -> Result<(), Failure> {
        let bytes = self.counted::<N>()?;
        let value = match bytes.len() {
            0 => Value::Int(0),
            1..=8 => {
                let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
                let mut whole = if negative { [0xff; 8] } else { [0; 8] };
                whole[..bytes.len()].copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(whole))
            }
            9..=32 => Value::Long(bytes.into()),
            _ => Value::Opaque,
        };
        self.heap.spend(64)?;
        self.push(value)
    }

    fn text<const N: usize>(&mut self) -> Result<(), Failure> {
        let bytes = self.counted::<N>()?;
        let value = match std::str::from_utf8(bytes) {
            Ok(text) => self.heap.text(text)?,
            Err(_) => {
                // Paid for before it is made: each byte may become a character of three.
                self.heap.spend(3 * bytes.len())?;
                self.heap.text(&String::from_utf8_lossy(bytes))?
            }
        };
        self.push(value)
    }

    /// Bytes are the insides of things that are of no use here.
    fn raw<const N: usize>(&mut self) -> Result<(), Failure> {
        self.counted::<N>()?;
        self.push(Value::Opaque)
    }

    fn short_tuple(&mut self) -> Result<(), Failure> {
        let count = usize::from(self.bytes[self.at - 1] - 0x84);
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            values.push(self.pop()?);
        }
        values.reverse();
        self.push_list(values)
    }

    fn append(&mut self, values: Vec<Value>) -> Result<(), Failure> {
        self.heap.spend(2 * size_of::<Value>() * values.len())?;
        match *self.top()? {
            Value::Opaque => Ok(()),
            Value::Object(at) => match &mut self.heap.objects[at as usize] {
                Object::List(list) => {
                    list.extend(values);
                    Ok(())
                }
                _ => Err(broken("it appends to something that is no list")),
            },
            _ => Err(broken("it appends to something that is no list")),
        }
    }

    /// Keys and values take turns.
    fn set_items(&mut self, values: Vec<Value>) -> Result<(), Failure> {
        let wrong = || broken("it sets items of something that is no dictionary");
        if !values.len().is_multiple_of(2) {
            return Err(broken("a key has no value"));
        }
        self.heap.spend(2 * size_of::<Value>() * values.len())?;
        let at = match *self.top()? {
            Value::Opaque => return Ok(()),
            Value::Object(at) => at,
            _ => return Err(wrong()),
        };
        match &mut self.heap.objects[at as usize] {
            Object::Dict(pairs) | Object::ParameterDict(pairs) => {
                let mut values = values.into_iter();
                while let (Some(key), Some(value)) = (values.next(), values.next()) {
                    pairs.push((key, value));
                }
                Ok(())
            }
            Object::List(_) => Err(wrong()),
        }
    }

    fn remember<const N: usize>(&mut self) -> Result<(), Failure> {
        let at = self.number::<N>()? as u32;
        self.remember_at(at)
    }

    fn remember_at(&mut self, at: u32) -> Result<(), Failure> {
        if self.memo.len() >= MAX_MEMO {
            return Err(Failure::TooMuch("remembers more values than any model needs".into()));
        }
        let value = self.top()?.clone();
        self.memo.insert(at, value);
        Ok(())
    }

    fn recall<const N: usize>(&mut self) -> Result<(), Failure> {
        let at = self.number::<N>()? as u32;
        let value = self.memo.get(&at).cloned();
        self.push(value.ok_or_else(|| broken("it refers to a value that it has not made"))?)
    }

    fn push_global(&mut self, module: &str, name: &str) -> Result<(), Failure> {
        match globals::look_up(module, name) {
            Some(known) => self.push(Value::Known(known)),
            None => Err(Failure::Refused(format!(
                "asks for `{}`, which no model needs",
                printable(&format!("{module}.{name}"))
            ))),
        }
    }

    /// What a call of a function makes.
    fn call(&mut self, function: &Value, arguments: &Value) -> Result<Value, Failure> {
        let Value::Known(known) = *function else {
            return match function {
                Value::Opaque => Ok(Value::Opaque),
                _ => Err(broken("it calls something that is no function")),
            };
        };
        let arguments = self.heap.list(arguments).ok_or_else(|| broken("a call has no values"))?;
        match known {
            Known::Tensor | Known::TypedTensor => {
                let arguments: Vec<_> = arguments.iter().take(8).cloned().collect();
                self.tensor(known, &arguments)
            }
            Known::Parameter => match arguments.first() {
                Some(tensor @ Value::Tensor(_)) => Ok(tensor.clone()),
                _ => Err(broken("a parameter holds no tensor")),
            },
            Known::Sizes => Ok(arguments.first().cloned().unwrap_or(Value::Opaque)),
            Known::Dict => {
                // Python 2 writes an ordered dictionary as a list of pairs.
                let mut pairs = Vec::new();
                for pair in arguments.first().and_then(|list| self.heap.list(list)).unwrap_or(&[]) {
                    match self.heap.list(pair) {
                        Some([key, value]) => pairs.push((key.clone(), value.clone())),
                        _ => {
                            return Err(broken(
                                "a dictionary is made of something else than pairs",
                            ));
                        }
                    }
                }
                self.heap.spend(4 * size_of::<Value>() * pairs.len())?;
                self.heap.add(Object::Dict(pairs))
            }
            Known::ParameterDict => self.heap.add(Object::ParameterDict(Vec::new())),
            Known::Inert => Ok(Value::Opaque),
            Known::Storage(_) | Known::UntypedStorage | Known::Type(_) => {
                Err(broken("it makes a storage of its own"))
            }
        }
    }

    /// A new object of a class.
    fn make(&mut self, class: &Value) -> Result<Value, Failure> {
        match class {
            Value::Known(Known::Dict) => self.heap.add(Object::Dict(Vec::new())),
            Value::Known(Known::ParameterDict) => self.heap.add(Object::ParameterDict(Vec::new())),
            Value::Known(Known::Inert) | Value::Opaque => Ok(Value::Opaque),
            _ => Err(broken("it makes an object of something that is no class")),
        }
    }

    /// Attributes of the object on top. Only those of a dictionary of parameters mean anything here.
    fn build(&mut self, state: &Value) -> Result<(), Failure> {
        let Value::Object(at) = *self.top()? else { return Ok(()) };
        if !matches!(self.heap.objects[at as usize], Object::ParameterDict(_)) {
            return Ok(());
        }
        // Searching costs time instead of memory, and is paid for in the same way.
        let searched = self.heap.dict(state).map_or(0, <[_]>::len);
        self.heap.spend(size_of::<Value>() * searched)?;
        let parameters = self.heap.get(state, "_parameters");
        let more = parameters.and_then(|value| self.heap.dict(value)).unwrap_or(&[]).to_vec();
        self.heap.spend(4 * size_of::<Value>() * more.len())?;
        if let Object::ParameterDict(pairs) = &mut self.heap.objects[at as usize] {
            pairs.extend(more);
        }
        Ok(())
    }

    /// `("storage", class, key, location, count)`, in old files with the part that is meant at the end.
    fn persistent(&mut self, id: &Value) -> Result<Value, Failure> {
        let wrong = || broken("the reference to a tensor's data is damaged");
        let parts = self.heap.list(id).ok_or_else(wrong)?;
        let [Value::Text(kind), Value::Known(class), key, _location, Value::Int(count), view @ ..] =
            parts
        else {
            return Err(wrong());
        };
        let dtype = match class {
            Known::Storage(dtype) => Some(*dtype),
            Known::UntypedStorage => None,
            _ => return Err(wrong()),
        };
        let key: Arc<str> = match key {
            Value::Text(text) => text.clone(),
            Value::Int(number) => number.to_string().into(),
            _ => return Err(wrong()),
        };
        let (mut first, mut count) = (0, u64::try_from(*count).map_err(|_| wrong())?);
        if **kind != *"storage" || key.len() > 200 {
            return Err(wrong());
        }
        if let Some(view) = view.first().and_then(|view| self.heap.list(view)) {
            let [_, Value::Int(offset), Value::Int(length)] = view else { return Err(wrong()) };
            let (offset, length) = (u64::try_from(*offset), u64::try_from(*length));
            let (Ok(offset), Ok(length)) = (offset, length) else { return Err(wrong()) };
            if offset.checked_add(length).is_none_or(|end| end > count) {
                return Err(wrong());
            }
            (first, count) = (offset, length);
        }
        let at = index(self.heap.storages.len());
        let known = *self.heap.known_storages.entry((key.clone(), first, count)).or_insert(at);
        if known != at {
            return match self.heap.storages[known as usize].dtype == dtype {
                true => Ok(Value::Storage(known)),
                false => Err(broken("the same data is said to be of two types")),
            };
        }
        self.heap.spend(2 * size_of::<Storage>() + 128 + key.len())?;
        self.heap.storages.push(Storage { key, dtype, first, count });
        Ok(Value::Storage(at))
    }

    /// A tensor, whose every element must lie in its storage.
    fn tensor(&mut self, known: Known, arguments: &[Value]) -> Result<Value, Failure> {
        let wrong = |what: &str| broken(&format!("a tensor {what}"));
        let [Value::Storage(storage), Value::Int(offset), shape, strides, rest @ ..] = arguments
        else {
            return Err(wrong("is not described as PyTorch does it"));
        };
        let shape = self.heap.sizes(shape).ok_or_else(|| wrong("has no sizes"))?;
        let strides = self.heap.sizes(strides).ok_or_else(|| wrong("has no strides"))?;
        let offset = u64::try_from(*offset).map_err(|_| wrong("begins in front of its data"))?;
        if shape.len() != strides.len() {
            return Err(wrong("has fewer or more strides than dimensions"));
        }
        let stored = &self.heap.storages[*storage as usize];
        let dtype = match (known, stored.dtype, rest.get(2)) {
            (Known::Tensor, Some(dtype), _) => dtype,
            (Known::TypedTensor, _, Some(Value::Known(Known::Type(Some(dtype))))) => *dtype,
            _ => {
                return Err(Failure::Refused(
                    "holds numbers of a type that no model uses".to_owned(),
                ));
            }
        };
        let unit = if stored.dtype.is_some() { 1 } else { dtype.size() as u64 };
        let end = end_of(&shape, &strides, offset).and_then(|end| end.checked_mul(unit));
        if end.is_none_or(|end| end > stored.count) {
            return Err(wrong(&format!(
                "of shape {shape:?} reaches beyond its data, which has {} numbers",
                stored.count / unit
            )));
        }
        self.heap.spend(2 * size_of::<View>() + 16 * shape.len() + 64)?;
        self.heap.tensors.push(View { storage: *storage, dtype, shape, strides, offset });
        Ok(Value::Tensor(index(self.heap.tensors.len() - 1)))
    }
}

/// The element behind the last of a view, from the storage's first; `None` if that overflows.
fn end_of(shape: &[usize], strides: &[usize], offset: u64) -> Option<u64> {
    if shape.contains(&0) {
        return Some(offset);
    }
    let mut last = offset;
    for (&size, &stride) in shape.iter().zip(strides) {
        last = last.checked_add((size as u64 - 1).checked_mul(stride as u64)?)?;
    }
    last.checked_add(1)
}

fn broken(problem: &str) -> Failure {
    Failure::Broken(format!("its pickle makes no sense: {problem}"))
}

/// A name from a file, for a message: without control characters, and not too long.
pub(super) fn printable(name: &str) -> String {
    name.escape_debug().take(100).collect()
}
