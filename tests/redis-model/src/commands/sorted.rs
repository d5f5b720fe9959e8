//! Sorted sets.

use super::{SYNTAX, count_of, integer, is};
use crate::{
    core::{CommandCaller, CommandResult, Core},
    data::Sorted,
    number,
    resp::RespReply,
};

/// A limit of a range of scores: `5`, `(5`, `-inf`.
fn limit(text: &[u8]) -> Result<(f64, bool), String> {
    let (text, is_open) = text.strip_prefix(b"(").map_or((text, false), |rest| (rest, true));
    number::score(text).map(|score| (score, is_open)).ok_or_else(|| "ERR min or max is not a float".into())
}

fn between(least: &[u8], most: &[u8]) -> Result<impl Fn(f64) -> bool + use<>, String> {
    let ((least, after), (most, before)) = (limit(least)?, limit(most)?);
    Ok(move |score: f64| {
        (if after { score > least } else { score >= least }) && (if before { score < most } else { score <= most })
    })
}

pub(super) fn zadd(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let (mut existing, mut changes, mut from) = (false, false, 2);
    while from < words.len() && (is(&words[from], "xx") || is(&words[from], "ch")) {
        existing |= is(&words[from], "xx");
        changes |= is(&words[from], "ch");
        from += 1;
    }
    if from == words.len() || !(words.len() - from).is_multiple_of(2) {
        return Err(SYNTAX.into());
    }
    let mut pairs = Vec::new();
    for pair in words[from..].chunks_exact(2) {
        pairs.push((number::score(&pair[0]).ok_or("ERR value is not a valid float")?, &pair[1]));
    }
    core.write_sorted(call, &words[1], |sorted| {
        let (mut added, mut changed) = (0, 0);
        for (score, member) in pairs {
            match sorted.score(member) {
                Some(known) => changed += usize::from(known != score),
                None if existing => continue,
                None => added += 1,
            }
            sorted.add(score, member);
        }
        let count = if changes { added + changed } else { added };
        Ok((RespReply::Int(count_of(count)), added + changed > 0))
    })
}

pub(super) fn zcard(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    core.read_sorted(call, &words[1], |sorted| {
        RespReply::Int(sorted.map_or(0, |sorted| count_of(sorted.members().len())))
    })
}

pub(super) fn zcount(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let test = between(&words[2], &words[3])?;
    core.read_sorted(call, &words[1], |sorted| {
        let members = sorted.map_or(&[][..], Sorted::members);
        RespReply::Int(count_of(members.iter().filter(|(score, _)| test(*score)).count()))
    })
}

pub(super) fn zrem(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    core.write_sorted(call, &words[1], |sorted| {
        let gone = words[2..].iter().filter(|member| sorted.remove(member)).count();
        Ok((RespReply::Int(count_of(gone)), gone > 0))
    })
}

pub(super) fn zscore(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    core.read_sorted(call, &words[1], |sorted| {
        sorted.and_then(|sorted| sorted.score(&words[2])).map_or(RespReply::Nil, RespReply::Double)
    })
}

pub(super) fn zremrangebyscore(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let test = between(&words[2], &words[3])?;
    core.write_sorted(call, &words[1], |sorted| {
        let gone = sorted.remove_where(test);
        Ok((RespReply::Int(count_of(gone)), gone > 0))
    })
}

/// Selects some of the members.
type Pick = Box<dyn Fn(&[(f64, Vec<u8>)]) -> Vec<(f64, Vec<u8>)>>;

pub(super) fn zrange(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let (mut by_score, mut with_scores, mut page) = (false, false, None);
    let mut rest = words[4..].iter();
    while let Some(word) = rest.next() {
        if is(word, "byscore") {
            by_score = true;
        } else if is(word, "withscores") {
            with_scores = true;
        } else if is(word, "limit") {
            let (skip, take) = (rest.next().ok_or(SYNTAX)?, rest.next().ok_or(SYNTAX)?);
            page = Some((integer(skip)?, integer(take)?));
        } else {
            return Err(SYNTAX.into());
        }
    }
    if page.is_some() && !by_score {
        return Err("ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX".into());
    }
    let pick: Pick = if by_score {
        let test = between(&words[2], &words[3])?;
        let (skip, take) = page.unwrap_or((0, -1));
        Box::new(move |all| {
            let found = all.iter().filter(|(score, _)| test(*score)).cloned();
            let Ok(skip) = usize::try_from(skip) else { return Vec::new() };
            found.skip(skip).take(usize::try_from(take).unwrap_or(usize::MAX)).collect()
        })
    } else {
        let (first, last) = (integer(&words[2])?, integer(&words[3])?);
        Box::new(move |all| {
            let len = count_of(all.len());
            let place = |at: i64| if at < 0 { (len + at).max(0) } else { at };
            let (first, last) = (place(first), (if last < 0 { len + last } else { last }).min(len - 1));
            let to = usize::try_from(last + 1).unwrap_or(0);
            all.get(usize::try_from(first).unwrap_or(0)..to).map(<[_]>::to_vec).unwrap_or_default()
        })
    };
    let resp3 = !call.in_script && core.clients.get(&call.client).is_some_and(|client| client.resp3);
    core.read_sorted(call, &words[1], |sorted| {
        let found = pick(sorted.map_or(&[], Sorted::members)).into_iter();
        RespReply::Array(match (with_scores, resp3) {
            (false, _) => found.map(|(_, member)| RespReply::Bulk(member)).collect(),
            (true, true) => found
                .map(|(score, member)| RespReply::Array(vec![RespReply::Bulk(member), RespReply::Double(score)]))
                .collect(),
            (true, false) => {
                found.flat_map(|(score, member)| [RespReply::Bulk(member), RespReply::Double(score)]).collect()
            }
        })
    })
}
