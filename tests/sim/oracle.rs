//! The judge of one client's story: what was published against what it saw. Never forgives silence.

use std::collections::{BTreeMap, BTreeSet};

use tickgate_wire::model::{Class, StreamId};

use crate::{
    client::{Seen, Story},
    server::{Marker, Taken, Truth},
    world::Subject,
};

/// What one story amounts to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub messages: u64,
    pub gaps: u64,
    /// Acknowledged publications that the client did not get, and was told of.
    pub told: u64,
}

/// Holds a story against the truth. `lossless`: nothing was ever lost, so no gap may be told either.
pub fn judge(subject: &Subject, story: &Story, truth: &Truth, lossless: bool) -> Result<Tally, String> {
    let taken = &truth.taken[..];
    let mut tally = Tally::default();
    let wanted = |taken: &&Taken| taken.channel.is_none_or(|channel| subject.owns(channel));
    let order = in_order(story, taken, lossless)?;
    tally.messages = order.len() as u64;
    if subject.rule.class != Class::State {
        ends(story)?;
    }
    let gaps = gaps(story);
    tally.gaps = gaps.len() as u64;
    if lossless && let Some(gap) = gaps.first() {
        return Err(format!("nothing was lost, yet a gap was told: {gap:?}"));
    }
    let last = taken.iter().filter(wanted).max_by_key(|t| t.number);
    if let Some(last) = last
        && !order.contains(&last.number)
    {
        return Err(format!("the last publication {} {} never came", last.number, last.id));
    }
    if subject.rule.class == Class::State {
        return Ok(tally);
    }
    let Some(begun) = story.begun else { return Ok(tally) };
    for owed in taken.iter().filter(wanted).filter(|t| t.id > begun && t.acknowledged) {
        if order.contains(&owed.number) {
            continue;
        }
        let told = |id: StreamId| {
            let of_channel =
                |gap: &&Missing<'_>| owed.channel.is_none_or(|channel| gap.channels.iter().any(|own| own == channel));
            gaps.iter().filter(of_channel).any(|gap| gap.after < id && id < gap.before)
        };
        // Or the marker that tells of it lies in a gap that was told: then the client knows not to trust what it has.
        let marker = |m: &Marker| m.after < owed.id && owed.id < m.before && told(m.id);
        if !told(owed.id) && !truth.markers.iter().any(marker) {
            return Err(format!("{} {} {:?} is missing without a gap", owed.number, owed.id, owed.channel));
        }
        tally.told += 1;
    }
    Ok(tally)
}

/// The numbers seen, none twice, in the order of their ids; each is what was published under its id. A value is shown
/// again when the client comes back; where nothing was lost, never an older one.
fn in_order(story: &Story, taken: &[Taken], lossless: bool) -> Result<BTreeSet<u64>, String> {
    let (mut all, mut since, mut last) = (BTreeSet::new(), BTreeSet::new(), None);
    for seen in &story.seen {
        let Seen::Message { id, number, channel, snapshot } = seen else { continue };
        if *snapshot {
            if lossless && last.is_some_and(|last| *id < last) {
                return Err(format!("{number} {id} was shown to a client that had {last:?}"));
            }
            (since, last) = (BTreeSet::new(), None);
        }
        if !since.insert(*number) {
            return Err(format!("{number} {id} came twice"));
        }
        if last.is_some_and(|last| *id <= last) {
            return Err(format!("{number} {id} came after {last:?}"));
        }
        last = Some(*id);
        all.insert(*number);
        let known = |t: &Taken| t.number == *number && t.id == *id && t.channel.is_none_or(|own| own == channel);
        if !taken.iter().any(known) {
            return Err(format!("{number} {id} {channel} was never published"));
        }
    }
    Ok(all)
}

/// The end of a replay counts what came of the channel, and says whether a gap was told. What a slow client lost on its way
/// is told where it was lost.
fn ends(story: &Story) -> Result<(), String> {
    let (mut counts, mut complete, mut slow) = (BTreeMap::<&str, u64>::new(), true, false);
    for seen in &story.seen {
        match seen {
            Seen::Connected => (counts, complete, slow) = (BTreeMap::new(), true, false),
            Seen::Message { channel, .. } => *counts.entry(channel).or_default() += 1,
            Seen::Gap { reason, .. } => (complete, slow) = (false, slow || reason == "slow_consumer"),
            Seen::CaughtUp { channel, replayed, complete: told } => {
                let came = counts.get(&**channel).copied().unwrap_or_default();
                if !slow && (came, complete) != (*replayed, *told) {
                    return Err(format!("{channel}: {came} came, complete {complete}, and told was {replayed} {told}"));
                }
            }
        }
    }
    Ok(())
}

#[derive(Debug)]
struct Missing<'a> {
    after: StreamId,
    before: StreamId,
    channels: &'a [String],
    #[expect(dead_code, reason = "for whoever reads a failure")]
    reason: &'a str,
}

/// The ranges told; one without an end ends at the next message.
fn gaps(story: &Story) -> Vec<Missing<'_>> {
    let mut all: Vec<Missing<'_>> = Vec::new();
    for (at, seen) in story.seen.iter().enumerate() {
        let Seen::Gap { after, before, channels, reason } = seen else { continue };
        let next = story.seen[at..].iter().find_map(|seen| match seen {
            Seen::Message { id, .. } => Some(*id),
            _ => None,
        });
        let before = before.or(next).unwrap_or(StreamId::MAX);
        all.push(Missing { after: after.unwrap_or_default(), before, channels, reason });
    }
    all
}

/// Both sides of a story, for whoever has to find out what went wrong.
pub fn tell(story: &Story, truth: &Truth) -> String {
    let published = |t: &Taken| format!("{}={}{}", t.number, t.id, if t.acknowledged { "" } else { "?" });
    let marker = |m: &Marker| format!("{}[{}..{}]", m.id, m.after, m.before);
    let end = |id: &Option<StreamId>| id.map_or("?".to_owned(), |id| id.to_string());
    let seen = |seen: &Seen| match seen {
        Seen::Message { id, number, .. } => format!("{number}={id}"),
        Seen::Connected => "|".to_owned(),
        Seen::CaughtUp { replayed, complete, .. } => format!("(caught up: {replayed} {complete})"),
        Seen::Gap { after, before, reason, .. } => format!("[{}..{} {reason}]", end(after), end(before)),
    };
    let published: Vec<_> = truth.taken.iter().map(published).collect();
    let markers: Vec<_> = truth.markers.iter().map(marker).collect();
    let saw: Vec<_> = story.seen.iter().map(seen).collect();
    let (published, markers, saw) = (published.join(" "), markers.join(" "), saw.join(" "));
    format!("  published {published}\n  markers {markers}\n  begun at {}\n  saw {saw}", end(&story.begun))
}
