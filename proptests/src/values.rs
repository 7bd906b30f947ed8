//! Values of any type that derives `Deserialize`, made by answering serde's questions.
//!
//! A derived `Deserialize` asks for each field by its type and names the variants of each enum.
//! [`draw`] answers from drawn words, [`Exemplars`] so that every variant comes up at least once.
//! A new field or variant is therefore covered on the day it is written, and no list of strategies
//! can lag behind the messages.
//!
//! Invariants: the value is a function of the words; words that ran out are zeros, which give the
//! smallest value, so that shorter words shrink the value.
//! Does not: respect rules beyond the types (a drawn policy may ask for 200 copies): codecs carry
//! whatever the types allow.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, SeqAccess,
    VariantAccess, Visitor, value::U32Deserializer,
};

/// Elements of a drawn sequence, at most: messages are trees of sequences, and they multiply.
const ELEMENTS_MAX: u64 = 4;
/// Characters of a drawn text, at most.
const CHARACTERS_MAX: u64 = 12;

/// A value could not be made: the type asks for something that no message of ours holds.
#[derive(Debug)]
pub struct Unsupported(String);

impl fmt::Display for Unsupported {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Unsupported {}

impl serde::de::Error for Unsupported {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// Who answers.
trait Source {
    fn number(&mut self, bits: u32) -> u128;
    fn flag(&mut self) -> bool;
    fn length(&mut self) -> usize;
    fn text(&mut self) -> String;
    fn variant(&mut self, name: &'static str, variants: &'static [&'static str]) -> u32;
    fn left_variant(&mut self) {}
}

/// The value that `words` stand for.
///
/// # Panics
/// When the type asks for what no message holds, such as a map.
#[must_use]
pub fn draw<T: DeserializeOwned>(words: &[u64]) -> T {
    let mut source = Words { words, at: 0 };
    T::deserialize(Maker(&mut source)).expect("messages are made of types that this file knows")
}

struct Words<'a> {
    words: &'a [u64],
    at: usize,
}

impl Words<'_> {
    fn next(&mut self) -> u64 {
        let word = self.words.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        word
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

impl Source for Words<'_> {
    fn number(&mut self, bits: u32) -> u128 {
        let (high, low) = (self.next(), self.next());
        let whole = u128::from(high) << 64 | u128::from(low);
        // Small numbers, the widest, and those at the codec's own boundaries should all come up.
        let kept = match self.below(4) {
            0 => bits.min(6),
            1 => bits.min(17),
            2 => bits.min(33),
            _ => bits,
        };
        whole & (u128::MAX >> (128 - kept))
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 1
    }

    fn length(&mut self) -> usize {
        usize::try_from(self.below(ELEMENTS_MAX)).expect("a small number")
    }

    fn text(&mut self) -> String {
        let length = self.below(CHARACTERS_MAX);
        let character = |word: u64| {
            let point = u32::try_from(word & 0x1f_ffff).expect("21 bits");
            char::from_u32(point).unwrap_or('a')
        };
        (0..length).map(|_| character(self.next())).collect()
    }

    fn variant(&mut self, _name: &'static str, variants: &'static [&'static str]) -> u32 {
        let count = u64::try_from(variants.len()).expect("usize fits 64 bits");
        u32::try_from(self.below(count)).expect("few variants")
    }
}

/// Makes values one after the other until every variant of every enum below them came up. Numbers
/// differ from one field to the next, so that two fields that changed places show.
#[derive(Debug, Default)]
pub struct Exemplars {
    fields: u32,
    open: Vec<(&'static str, u32)>,
    variants: BTreeMap<&'static str, u32>,
    seen: BTreeSet<(&'static str, u32)>,
    /// Enums met below a variant.
    below: BTreeMap<(&'static str, u32), BTreeSet<&'static str>>,
}

impl Exemplars {
    /// Values of `T`: at least one, and as many as have something new to show.
    ///
    /// # Panics
    /// When the type asks for what no message holds, such as a map.
    pub fn of<T: DeserializeOwned>(&mut self) -> Vec<T> {
        let mut values = Vec::new();
        loop {
            let before = self.seen.len();
            self.fields = 0;
            let value = T::deserialize(Maker(self));
            let value = value.expect("messages are made of types that this file knows");
            if self.seen.len() == before && !values.is_empty() {
                return values;
            }
            values.push(value);
        }
    }

    fn next(&mut self) -> u32 {
        self.fields += 1;
        self.fields
    }

    fn has_unseen(&self, name: &'static str) -> bool {
        let count = self.variants.get(name).copied().unwrap_or(0);
        (0..count).any(|variant| !self.seen.contains(&(name, variant)))
    }

    fn leads_on(&self, name: &'static str, variant: u32) -> bool {
        let key = (name, variant);
        let below = self.below.get(&key).into_iter().flatten();
        !self.seen.contains(&key) || below.into_iter().any(|name| self.has_unseen(name))
    }
}

impl Source for Exemplars {
    fn number(&mut self, bits: u32) -> u128 {
        // Around each width at which the encoding changes its form.
        const BASES: [u128; 5] = [0, 251, 1 << 16, 1 << 32, 1 << 64];
        let field = self.next();
        let fitting = BASES.iter().filter(|base| **base < 1 << (bits - 1)).count();
        let at = usize::try_from(field).expect("32 bits fit") % fitting;
        (BASES[at] + u128::from(field)) & (u128::MAX >> (128 - bits))
    }

    fn flag(&mut self) -> bool {
        !self.next().is_multiple_of(3)
    }

    fn length(&mut self) -> usize {
        1
    }

    fn text(&mut self) -> String {
        format!("text{}", self.next())
    }

    fn variant(&mut self, name: &'static str, variants: &'static [&'static str]) -> u32 {
        let count = u32::try_from(variants.len()).expect("few variants");
        self.variants.insert(name, count);
        for outer in &self.open {
            self.below.entry(*outer).or_default().insert(name);
        }
        let open = (0..count).find(|variant| self.leads_on(name, *variant));
        let variant = open.unwrap_or(0);
        self.seen.insert((name, variant));
        self.open.push((name, variant));
        variant
    }

    fn left_variant(&mut self) {
        self.open.pop();
    }
}

/// The deserializer: each question goes to the source.
struct Maker<'a, S>(&'a mut S);

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty),+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsupported> {
            let number = self.0.number(<$type>::BITS);
            visitor.$visit(<$type>::try_from(number).expect("no more bits were asked for"))
        })+
    };
}

macro_rules! unsupported {
    ($($method:ident),+) => {
        $(fn $method<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Unsupported> {
            Err(Unsupported(concat!(stringify!($method), ": teach proptests/src/values.rs").into()))
        })+
    };
}

impl<'de, S: Source> Deserializer<'de> for Maker<'_, S> {
    type Error = Unsupported;

    numbers! {
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64,
        deserialize_u128 visit_u128 u128
    }

    unsupported! {
        deserialize_any, deserialize_i8, deserialize_i16, deserialize_i32, deserialize_i64,
        deserialize_f32, deserialize_f64, deserialize_char, deserialize_bytes, deserialize_map,
        deserialize_identifier, deserialize_ignored_any
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsupported> {
        visitor.visit_byte_buf(self.0.text().into_bytes())
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsupported> {
        visitor.visit_bool(self.0.flag())
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsupported> {
        visitor.visit_string(self.0.text())
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsupported> {
        visitor.visit_string(self.0.text())
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsupported> {
        if self.0.flag() {
            visitor.visit_some(self)
        } else {
            visitor.visit_none()
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsupported> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Unsupported> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Unsupported> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsupported> {
        let left = self.0.length();
        visitor.visit_seq(Elements {
            source: self.0,
            left,
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Unsupported> {
        visitor.visit_seq(Elements {
            source: self.0,
            left: length,
        })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Unsupported> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unsupported> {
        self.deserialize_tuple(fields.len(), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unsupported> {
        let variant = self.0.variant(name, variants);
        let value = visitor.visit_enum(Chosen {
            source: &mut *self.0,
            variant,
        });
        self.0.left_variant();
        value
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

struct Elements<'a, S> {
    source: &'a mut S,
    left: usize,
}

impl<'de, S: Source> SeqAccess<'de> for Elements<'_, S> {
    type Error = Unsupported;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Unsupported> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(Maker(&mut *self.source)).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

struct Chosen<'a, S> {
    source: &'a mut S,
    variant: u32,
}

impl<'de, 'a, S: Source> EnumAccess<'de> for Chosen<'a, S> {
    type Error = Unsupported;
    type Variant = Maker<'a, S>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Maker<'a, S>), Unsupported> {
        let number: U32Deserializer<Unsupported> = self.variant.into_deserializer();
        Ok((seed.deserialize(number)?, Maker(self.source)))
    }
}

impl<'de, S: Source> VariantAccess<'de> for Maker<'_, S> {
    type Error = Unsupported;

    fn unit_variant(self) -> Result<(), Unsupported> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<T::Value, Unsupported> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Unsupported> {
        self.deserialize_tuple(length, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unsupported> {
        self.deserialize_tuple(fields.len(), visitor)
    }
}
