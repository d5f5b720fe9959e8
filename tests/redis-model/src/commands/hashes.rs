//! Hashes.

use super::{SYNTAX, count_of, integer, is};
use crate::{
    core::{CommandCaller, CommandResult, Core},
    resp::RespReply,
};

fn bulk(value: Option<&Vec<u8>>) -> RespReply {
    value.map_or(RespReply::Nil, |value| RespReply::text(&value[..]))
}

pub(super) fn hset(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    if !words.len().is_multiple_of(2) {
        return Err("ERR wrong number of arguments for 'hset' command".into());
    }
    core.write_hash(call, &words[1], |hash| {
        let mut added = 0;
        for pair in words[2..].chunks_exact(2) {
            added += i64::from(hash.insert(pair[0].clone(), pair[1].clone()).is_none());
        }
        Ok((RespReply::Int(added), true))
    })
}

pub(super) fn hsetnx(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    core.write_hash(call, &words[1], |hash| {
        let is_new = !hash.contains_key(&words[2]);
        if is_new {
            hash.insert(words[2].clone(), words[3].clone());
        }
        Ok((RespReply::Int(is_new.into()), is_new))
    })
}

pub(super) fn hget(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    core.read_hash(call, &words[1], |hash| bulk(hash.and_then(|hash| hash.get(&words[2]))))
}

pub(super) fn hmget(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    core.read_hash(call, &words[1], |hash| {
        RespReply::Array(words[2..].iter().map(|field| bulk(hash.and_then(|hash| hash.get(field)))).collect())
    })
}

pub(super) fn hgetall(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    core.read_hash(call, &words[1], |hash| {
        let pair = |(field, value): (&Vec<u8>, &Vec<u8>)| (RespReply::text(&field[..]), RespReply::text(&value[..]));
        RespReply::Map(hash.into_iter().flatten().map(pair).collect())
    })
}

pub(super) fn hkeys(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    core.read_hash(call, &words[1], |hash| {
        RespReply::Array(hash.into_iter().flatten().map(|(field, _)| RespReply::text(&field[..])).collect())
    })
}

pub(super) fn hdel(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    core.write_hash(call, &words[1], |hash| {
        let gone = words[2..].iter().filter(|field| hash.shift_remove(&field[..]).is_some()).count();
        Ok((RespReply::Int(count_of(gone)), gone > 0))
    })
}

pub(super) fn hlen(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    core.read_hash(call, &words[1], |hash| RespReply::Int(hash.map_or(0, |hash| count_of(hash.len()))))
}

pub(super) fn hexists(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    core.read_hash(call, &words[1], |hash| RespReply::Int(hash.is_some_and(|hash| hash.contains_key(&words[2])).into()))
}

pub(super) fn hincrby(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let by = integer(&words[3])?;
    core.write_hash(call, &words[1], |hash| {
        let number = hash.get(&words[2]).map_or(Ok(0), |text| integer(text));
        let number = number.map_err(|_| "ERR hash value is not an integer")?;
        let sum = number.checked_add(by).ok_or("ERR increment or decrement would overflow")?;
        hash.insert(words[2].clone(), sum.to_string().into_bytes());
        Ok((RespReply::Int(sum), true))
    })
}

/// A small hash is returned in one response, whatever the count.
pub(super) fn hscan(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    crate::number::integer(&words[2]).filter(|at| *at >= 0).ok_or("ERR invalid cursor")?;
    if core.read_hash(call, &words[1], |hash| hash.is_none())? {
        return Ok(RespReply::Array(vec![RespReply::text("0"), RespReply::Array(Vec::new())]));
    }
    let mut rest = words[3..].iter();
    while let Some(word) = rest.next() {
        if !is(word, "count") || integer(rest.next().ok_or(SYNTAX)?)? < 1 {
            return Err(SYNTAX.into());
        }
    }
    let all = core.read_hash(call, &words[1], |hash| {
        hash.into_iter()
            .flatten()
            .flat_map(|(field, value)| [field, value])
            .map(|part| RespReply::text(&part[..]))
            .collect()
    })?;
    Ok(RespReply::Array(vec![RespReply::text("0"), RespReply::Array(all)]))
}
