//! Keys of any type: expiry, names, deletion.

use std::collections::BTreeMap;

use super::{SYNTAX, count_of, integer, is};
use crate::{
    core::{CommandCaller, CommandResult, Core, DATABASES},
    data::KeyData,
    resp::RespReply,
};

pub(super) fn del(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let mut gone = 0;
    for key in &words[1..] {
        if core.get(call, key).is_some() {
            core.put(call, key, None);
            gone += 1;
        }
    }
    Ok(RespReply::Int(gone))
}

pub(super) fn exists(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    Ok(RespReply::Int(count_of(words[1..].iter().filter(|key| core.get(call, key).is_some()).count())))
}

pub(super) fn kind(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    Ok(RespReply::Status(match core.get(call, &words[1]).as_ref().map(|value| &*value.data) {
        None => "none",
        Some(KeyData::Text(_)) => "string",
        Some(KeyData::Hash(_)) => "hash",
        Some(KeyData::Sorted(_)) => "zset",
        Some(KeyData::Set(_)) => "set",
        Some(KeyData::Stream(_)) => "stream",
    }))
}

pub(super) fn expire(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    ends_in(core, call, words, 1_000)
}

pub(super) fn pexpire(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    ends_in(core, call, words, 1)
}

fn ends_in(core: &mut Core, call: CommandCaller, words: &[Vec<u8>], unit: i64) -> CommandResult {
    let name = String::from_utf8_lossy(&words[0]).to_lowercase();
    let only = |option: &str| words.get(3).is_some_and(|word| is(word, option));
    let (nx, xx, gt, lt) = (only("nx"), only("xx"), only("gt"), only("lt"));
    if words.len() > 4 || words.len() == 4 && !(nx || xx || gt || lt) {
        return Err(format!("ERR Unsupported option {}", String::from_utf8_lossy(&words[3])));
    }
    let life = integer(&words[2])?;
    let end = life.checked_mul(unit).and_then(|life| life.checked_add_unsigned(core.now_ms()));
    let end = end.ok_or_else(|| format!("ERR invalid expire time in '{name}' command"))?;
    let Some(mut value) = core.get(call, &words[1]) else { return Ok(RespReply::Int(0)) };
    let known = value.expires_ms.map_or(i64::MAX, |known| i64::try_from(known).unwrap_or(i64::MAX));
    let has_end = value.expires_ms.is_some();
    if nx && has_end || xx && !has_end || gt && end <= known || lt && end >= known {
        return Ok(RespReply::Int(0));
    }
    let end = u64::try_from(end).ok().filter(|end| *end > core.now_ms());
    value.expires_ms = end;
    core.put(call, &words[1], end.map(|_| value));
    Ok(RespReply::Int(1))
}

pub(super) fn persist(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let Some(mut value) = core.get(call, &words[1]).filter(|value| value.expires_ms.is_some()) else {
        return Ok(RespReply::Int(0));
    };
    value.expires_ms = None;
    core.put(call, &words[1], Some(value));
    Ok(RespReply::Int(1))
}

fn left_ms(core: &mut Core, call: CommandCaller, key: &[u8]) -> i64 {
    match core.get(call, key).map(|value| value.expires_ms) {
        None => -2,
        Some(None) => -1,
        Some(Some(end)) => i64::try_from(end - core.now_ms()).unwrap_or(i64::MAX),
    }
}

pub(super) fn pttl(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    Ok(RespReply::Int(left_ms(core, call, &words[1])))
}

pub(super) fn ttl(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let left = left_ms(core, call, &words[1]);
    Ok(RespReply::Int(if left < 0 { left } else { (left + 500) / 1_000 }))
}

pub(super) fn rename(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let value = core.get(call, &words[1]).ok_or("ERR no such key")?;
    if words[1] != words[2] {
        core.put(call, &words[1], None);
        core.put(call, &words[2], Some(value));
    }
    Ok(RespReply::OK)
}

pub(super) fn renamenx(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let value = core.get(call, &words[1]).ok_or("ERR no such key")?;
    if words[1] == words[2] || core.get(call, &words[2]).is_some() {
        return Ok(RespReply::Int(0));
    }
    core.put(call, &words[1], None);
    core.put(call, &words[2], Some(value));
    Ok(RespReply::Int(1))
}

pub(super) fn flushall(core: &mut Core, _: CommandCaller, _: &[Vec<u8>]) -> CommandResult {
    for db in 0..DATABASES {
        core.replace(db, &BTreeMap::new());
    }
    Ok(RespReply::OK)
}

pub(super) fn swapdb(core: &mut Core, _: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let index = |word: &[u8], which: &str| {
        let number = crate::number::integer(word).ok_or_else(|| format!("ERR invalid {which} DB index"))?;
        let number = usize::try_from(number).ok().filter(|number| *number < DATABASES);
        number.ok_or_else(|| "ERR DB index is out of range".to_owned())
    };
    let (one, other) = (index(&words[1], "first")?, index(&words[2], "second")?);
    if words.len() != 3 {
        return Err(SYNTAX.into());
    }
    if one != other {
        let (first, second) = (core.dbs[one].clone(), core.dbs[other].clone());
        core.replace(one, &second);
        core.replace(other, &first);
    }
    Ok(RespReply::OK)
}
