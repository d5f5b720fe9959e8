//! Streams.

use std::rc::Rc;

use super::{NOT_INTEGER, SYNTAX, count_of, integer, is};
use crate::{
    core::{CommandCaller, CommandResult, Core},
    resp::RespReply,
    stream::{Bound, EntryId, FieldPairs, StreamKey},
};

const BAD_ID: &str = "ERR Invalid stream ID specified as stream command argument";
const TOO_SMALL: &str = "ERR The ID specified in XADD is equal or smaller than the target stream top item";

/// `MAXLEN ~ 10`, `MINID 5-0`, with the number of words.
fn bound(words: &[Vec<u8>]) -> Result<Option<(Bound, bool, usize)>, String> {
    let by_id = is(&words[0], "minid");
    if !by_id && !is(&words[0], "maxlen") {
        return Ok(None);
    }
    let mut at = 1;
    let mark = words.get(at).ok_or(SYNTAX)?;
    let is_mark = words.len() > 2 && (mark == b"~" || mark == b"=");
    let about = is_mark && mark == b"~";
    at += usize::from(is_mark);
    let limit = words.get(at).ok_or(SYNTAX)?;
    let bound = if by_id {
        Bound::Id(EntryId::parse(limit, 0).ok_or(BAD_ID)?)
    } else {
        let keep = integer(limit)?;
        Bound::Length(u64::try_from(keep).map_err(|_| "ERR The MAXLEN argument must be >= 0.")?)
    };
    Ok(Some((bound, about, at + 1)))
}

/// The id that an entry requests.
enum RequestedId {
    Any,
    InEpoch(u64),
    Exactly(EntryId),
}

fn wanted(word: &[u8]) -> Result<RequestedId, String> {
    if word == b"*" {
        return Ok(RequestedId::Any);
    }
    if let Some(epoch) = word.strip_suffix(b"-*") {
        let id = EntryId::parse(epoch, 0).filter(|_| !epoch.contains(&b'-'));
        return Ok(RequestedId::InEpoch(id.ok_or(BAD_ID)?.ms));
    }
    Ok(RequestedId::Exactly(EntryId::parse(word, 0).ok_or(BAD_ID)?))
}

/// The id of the next entry; `None` if it would not be greater than the last.
fn next_id(wanted: &RequestedId, last: EntryId, now_ms: u64) -> Option<EntryId> {
    match wanted {
        RequestedId::Any if now_ms > last.ms => Some(EntryId { ms: now_ms, seq: 0 }),
        RequestedId::Any => last.next(),
        RequestedId::InEpoch(ms) if *ms > last.ms => Some(EntryId { ms: *ms, seq: 0 }),
        RequestedId::InEpoch(ms) if *ms == last.ms => last.seq.checked_add(1).map(|seq| EntryId { ms: *ms, seq }),
        RequestedId::InEpoch(_) => None,
        RequestedId::Exactly(id) => (*id > last).then_some(*id),
    }
}

pub(super) fn xadd(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let (mut at, mut only_old, mut limit) = (2, false, None);
    while at < words.len() {
        if is(&words[at], "nomkstream") {
            only_old = true;
            at += 1;
        } else if let Some((bound, about, taken)) = bound(&words[at..])? {
            limit = Some((bound, about));
            at += taken;
        } else {
            break;
        }
    }
    let wanted = wanted(words.get(at).ok_or(SYNTAX)?)?;
    let fields = &words[at + 1..];
    if fields.is_empty() || !fields.len().is_multiple_of(2) {
        return Err("ERR wrong number of arguments for 'xadd' command".into());
    }
    if matches!(wanted, RequestedId::Exactly(id) if id == EntryId::default()) {
        return Err("ERR The ID specified in XADD must be greater than 0-0".into());
    }
    if core.read_stream(call, &words[1], |stream| stream.is_none())? && only_old {
        return Ok(RespReply::Nil);
    }
    let (now_ms, node_entries) = (core.now_ms(), core.node_entries);
    let fields: FieldPairs = Rc::from(fields);
    core.write_stream(call, &words[1], |stream| {
        if stream.last == EntryId::MAX {
            return Err("ERR The stream has exhausted the last possible ID, unable to add more items".into());
        }
        let zero_epoch = matches!(wanted, RequestedId::InEpoch(0)) && stream.last == EntryId::default();
        let id = if zero_epoch { Some(EntryId { ms: 0, seq: 1 }) } else { next_id(&wanted, stream.last, now_ms) };
        let id = id.ok_or(TOO_SMALL)?;
        stream.append(id, fields, node_entries);
        if let Some((bound, about)) = limit {
            stream.trim(bound, about);
        }
        Ok((RespReply::text(id.to_string()), true))
    })
}

pub(super) fn xdel(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let ids: Option<Vec<_>> = words[2..].iter().map(|word| EntryId::parse(word, 0)).collect();
    if core.read_stream(call, &words[1], |stream| stream.is_none())? {
        return Ok(RespReply::Int(0));
    }
    let ids = ids.ok_or(BAD_ID)?;
    core.write_stream(call, &words[1], |stream| {
        let gone = ids.iter().filter(|id| stream.delete(**id)).count();
        Ok((RespReply::Int(count_of(gone)), gone > 0))
    })
}

pub(super) fn xtrim(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let (limit, about, taken) = bound(&words[2..])?.ok_or(SYNTAX)?;
    if taken + 2 != words.len() {
        return Err(SYNTAX.into());
    }
    if core.read_stream(call, &words[1], |stream| stream.is_none())? {
        return Ok(RespReply::Int(0));
    }
    core.write_stream(call, &words[1], |stream| {
        let gone = stream.trim(limit, about);
        Ok((RespReply::Int(count_of(gone)), gone > 0))
    })
}

pub(super) fn xlen(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    core.read_stream(call, &words[1], |stream| RespReply::Int(stream.map_or(0, |stream| count_of(stream.len()))))
}

fn entry((id, fields): (EntryId, &FieldPairs)) -> RespReply {
    let fields = fields.iter().map(|part| RespReply::text(&part[..])).collect();
    RespReply::Array(vec![RespReply::text(id.to_string()), RespReply::Array(fields)])
}

/// One end of a range: inclusive, exclusive, or the end of the stream.
fn end(word: &[u8], is_start: bool) -> Result<EntryId, String> {
    match word {
        b"-" => return Ok(EntryId::default()),
        b"+" => return Ok(EntryId::MAX),
        _ => {}
    }
    let missing_seq = if is_start { 0 } else { u64::MAX };
    let Some(open) = word.strip_prefix(b"(") else {
        return EntryId::parse(word, missing_seq).ok_or_else(|| BAD_ID.into());
    };
    let id = EntryId::parse(open, missing_seq).ok_or(BAD_ID)?;
    let (id, which) = if is_start { (id.next(), "start") } else { (id.previous(), "end") };
    id.ok_or_else(|| format!("ERR invalid {which} ID for the interval"))
}

fn range(core: &mut Core, call: CommandCaller, words: &[Vec<u8>], backwards: bool) -> CommandResult {
    let (first, last) = if backwards { (3, 2) } else { (2, 3) };
    let (first, last) = (end(&words[first], true)?, end(&words[last], false)?);
    let mut count = None;
    if let Some(option) = words.get(4) {
        if !is(option, "count") || words.len() != 6 {
            return Err(SYNTAX.into());
        }
        count = Some(crate::number::integer(&words[5]).ok_or(NOT_INTEGER)?.max(0));
    }
    let exists = core.read_stream(call, &words[1], |stream| stream.is_some())?;
    let limit = count.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX));
    if exists && limit == 0 {
        return Ok(RespReply::NilArray);
    }
    core.read_stream(call, &words[1], |stream| {
        let Some(stream) = stream.filter(|_| first <= last) else { return RespReply::Array(Vec::new()) };
        let found = stream.range(first, last);
        RespReply::Array(if backwards {
            found.rev().take(limit).map(entry).collect()
        } else {
            found.take(limit).map(entry).collect()
        })
    })
}

pub(super) fn xrange(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    range(core, call, words, false)
}

pub(super) fn xrevrange(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    range(core, call, words, true)
}

/// Never blocks.
pub(super) fn xread(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let mut at = 1;
    let mut limit = usize::MAX;
    if is(&words[at], "count") {
        limit = usize::try_from(integer(&words[at + 1])?).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        at += 2;
    }
    if words.get(at).is_none_or(|word| !is(word, "streams")) {
        return Err(SYNTAX.into());
    }
    let rest = &words[at + 1..];
    if rest.is_empty() || !rest.len().is_multiple_of(2) {
        return Err("ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified.".into());
    }
    let (keys, ids) = rest.split_at(rest.len() / 2);
    let mut found = Vec::new();
    for (key, id) in keys.iter().zip(ids) {
        core.read_stream(call, key, |_| ())?;
        let after = EntryId::parse(id, 0).ok_or(BAD_ID)?;
        let read = |stream: Option<&StreamKey>| {
            let first = after.next()?;
            let entries: Vec<_> = stream?.range(first, EntryId::MAX).take(limit).map(entry).collect();
            (!entries.is_empty()).then_some(entries)
        };
        if let Some(entries) = core.read_stream(call, key, read)? {
            found.push((RespReply::text(&key[..]), RespReply::Array(entries)));
        }
    }
    if found.is_empty() {
        return Ok(RespReply::NilArray);
    }
    let resp3 = !call.in_script && core.clients.get(&call.client).is_some_and(|client| client.resp3);
    Ok(if resp3 {
        RespReply::Map(found)
    } else {
        RespReply::Array(found.into_iter().map(|(key, entries)| RespReply::Array(vec![key, entries])).collect())
    })
}

pub(super) fn xinfo(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    if !is(&words[1], "stream") || words.len() != 3 {
        return Err(SYNTAX.into());
    }
    core.read_stream(call, &words[2], |stream| {
        let stream = stream.ok_or("ERR no such key")?;
        let whole = || stream.range(EntryId::default(), EntryId::MAX);
        let number = |number: usize| RespReply::Int(count_of(number));
        let id = |id: EntryId| RespReply::text(id.to_string());
        let pairs = [
            ("length", number(stream.len())),
            ("radix-tree-keys", number(stream.nodes())),
            ("radix-tree-nodes", number(stream.nodes() + 1)),
            ("last-generated-id", id(stream.last)),
            ("max-deleted-entry-id", id(stream.max_deleted)),
            ("entries-added", RespReply::Int(i64::try_from(stream.added).unwrap_or(i64::MAX))),
            ("recorded-first-entry-id", id(stream.first_id())),
            ("groups", RespReply::Int(0)),
            ("first-entry", whole().next().map_or(RespReply::Nil, entry)),
            ("last-entry", whole().next_back().map_or(RespReply::Nil, entry)),
        ];
        Ok(RespReply::Map(pairs.map(|(name, value)| (RespReply::text(name), value)).into()))
    })?
}
