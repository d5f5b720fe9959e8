//! Sets.

use super::count_of;
use crate::{
    core::{CommandCaller, CommandResult, Core},
    resp::RespReply,
};

pub(super) fn sadd(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    core.write_set(call, &words[1], |set| {
        let added = words[2..].iter().filter(|member| set.insert((*member).clone())).count();
        Ok((RespReply::Int(count_of(added)), added > 0))
    })
}

pub(super) fn srem(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    core.write_set(call, &words[1], |set| {
        let gone = words[2..].iter().filter(|member| set.remove(&member[..])).count();
        Ok((RespReply::Int(count_of(gone)), gone > 0))
    })
}

pub(super) fn scard(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    core.read_set(call, &words[1], |set| RespReply::Int(set.map_or(0, |set| count_of(set.len()))))
}

pub(super) fn sismember(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    core.read_set(call, &words[1], |set| RespReply::Int(set.is_some_and(|set| set.contains(&words[2])).into()))
}
