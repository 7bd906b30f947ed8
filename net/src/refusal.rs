//! Refusals as bytes: code, a number, a sentence.

use bytes::Bytes;

use crate::wire::{Fields, WireError, put_text, put_u16, put_u64};
use crate::{Message, Refusal, RefusalCode};

/// The message of a refusal frame. `limit` goes with [`RefusalCode::TooLarge`].
pub(crate) fn encode(refusal: &Refusal, limit: u64) -> Message {
    let mut bytes = Vec::with_capacity(16 + refusal.text.len());
    put_u16(&mut bytes, refusal.code.number());
    put_u64(&mut bytes, limit);
    put_text(&mut bytes, &refusal.text, Refusal::MAXIMUM_TEXT_BYTES);
    Message {
        head: Bytes::from(bytes),
        payload: Bytes::new(),
    }
}

/// Reads a refusal and its limit.
pub(crate) fn decode(message: &Message) -> Result<(Refusal, u64), WireError> {
    let mut fields = Fields::new(&message.head);
    let code = RefusalCode::from_number(fields.u16("refusal code")?);
    let limit = fields.u64("limit")?;
    let text = fields.text("refusal text", Refusal::MAXIMUM_TEXT_BYTES)?;
    fields.end();
    Ok((Refusal { code, text }, limit))
}
