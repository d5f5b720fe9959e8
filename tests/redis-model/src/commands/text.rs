//! Text.

use super::{SYNTAX, count_of, integer, is};
use crate::{
    core::{CommandCaller, CommandResult, Core},
    data::{KeyData, KeyValue},
    resp::RespReply,
};

pub(super) fn get(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    core.read_text(call, &words[1], |text| text.map_or(RespReply::Nil, |text| RespReply::text(&text[..])))
}

pub(super) fn set(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let (mut life_ms, mut only_new, mut only_old, mut keep) = (None, false, false, false);
    let mut rest = words[3..].iter();
    while let Some(word) = rest.next() {
        let unit = if is(word, "px") { 1 } else { 1_000 };
        if is(word, "nx") && !only_old {
            only_new = true;
        } else if is(word, "xx") && !only_new {
            only_old = true;
        } else if is(word, "keepttl") && life_ms.is_none() {
            keep = true;
        } else if (is(word, "px") || is(word, "ex")) && life_ms.is_none() && !keep {
            let number = integer(rest.next().ok_or(SYNTAX)?)?;
            let life = number.checked_mul(unit).filter(|life| *life > 0);
            life_ms = Some(life.ok_or("ERR invalid expire time in 'set' command")?);
        } else {
            return Err(SYNTAX.into());
        }
    }
    let former = core.get(call, &words[1]);
    if only_new && former.is_some() || only_old && former.is_none() {
        return Ok(RespReply::Nil);
    }
    let kept = former.filter(|_| keep).and_then(|former| former.expires_ms);
    let expires_ms = life_ms.map(|life| core.now_ms().saturating_add_signed(life)).or(kept);
    let value = KeyValue { expires_ms, ..KeyValue::new(KeyData::Text(words[2].clone())) };
    core.put(call, &words[1], Some(value));
    Ok(RespReply::OK)
}

pub(super) fn getdel(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let found = get(core, call, words)?;
    if found != RespReply::Nil {
        core.put(call, &words[1], None);
    }
    Ok(found)
}

pub(super) fn getrange(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let (first, last) = (integer(&words[2])?, integer(&words[3])?);
    core.read_text(call, &words[1], |text| {
        let text = text.map_or(&[][..], |text| &text[..]);
        let len = count_of(text.len());
        if first < 0 && last < 0 && first > last {
            return RespReply::text(b"");
        }
        let place = |at: i64| if at < 0 { (len + at).max(0) } else { at };
        let (first, last) = (place(first), place(last).min(len - 1));
        if first > last || len == 0 {
            return RespReply::text(b"");
        }
        RespReply::text(&text[usize::try_from(first).unwrap_or(0)..=usize::try_from(last).unwrap_or(0)])
    })
}

pub(super) fn incr(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    add(core, call, &words[1], 1)
}

pub(super) fn incrby(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let by = integer(&words[2])?;
    add(core, call, &words[1], by)
}

fn add(core: &mut Core, call: CommandCaller, key: &[u8], by: i64) -> CommandResult {
    core.write_text(call, key, |text| {
        let number = if text.is_empty() { 0 } else { integer(text)? };
        let sum = number.checked_add(by).ok_or("ERR increment or decrement would overflow")?;
        *text = sum.to_string().into_bytes();
        Ok((RespReply::Int(sum), true))
    })
}
