//! The judge: it knows every publication and what became of it, and everything that each client was told. Never forgives
//! silence.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tickgate_wire::model::{Class, StreamId};

use crate::{
    client::{MADE_UP, Seen, Story},
    gateway::{Outcome, Publication, TOPICS},
    step::Step,
};

/// What is wrong, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An acknowledged publication that a client neither got nor was told of.
    Silent,
    /// A client that waits forever, or a gateway that takes nothing any more.
    Stuck,
    /// One id for two contents.
    TwoContents,
    Twice,
    Disorder,
    FalseComplete,
    /// A gap over what the client has.
    GapOverHad,
    /// A gap where nothing is missing.
    GapOverNothing,
    /// A gap with the wrong reason: what a client or an engine did wrong is told as Redis's loss.
    Blamed,
    /// More gaps heard than counted.
    Uncounted,
}

/// A fault, and what it is seen by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    pub kind: Kind,
    pub text: String,
}

impl Fault {
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

/// Time between two beats, with what is under way.
const BEAT: Duration = Duration::from_millis(1_400);

/// What the promise does not cover, as docs/guarantees.md says it.
#[derive(Debug, Default)]
pub struct Excuses {
    /// A gateway could not say what it acknowledged: it was killed, or its links led nowhere. A change of server is in doubt.
    pub doubtful: bool,
    /// A stream is gone, and with it the knowledge of what it gave: whoever comes back is told `retention`.
    pub vanished: [bool; TOPICS.len()],
    /// A server is stopped; a gateway vouches for what it does not see for a minute at the most.
    stopped: bool,
    /// When the dataset was replaced under the same identity, which shows with the next beat.
    pub replaced: Vec<Duration>,
}

impl Excuses {
    pub fn add(&mut self, step: &Step, now: Duration) {
        match step {
            Step::Kill { .. } | Step::Hold { .. } | Step::Lead { .. } | Step::Deny(_) | Step::Fill => {
                self.doubtful = true;
            }
            Step::Stop { .. } => self.stopped = true,
            Step::Start { .. } => self.stopped = false,
            Step::Idle => self.doubtful |= self.stopped,
            Step::Replace { .. } => self.replaced.push(now),
            _ => {}
        }
    }

    /// Whether nothing is promised of it: it was published less than a beat before or after its dataset was replaced.
    fn covers(&self, publication: &Publication) -> bool {
        self.replaced.iter().any(|at| at.abs_diff(publication.at) < BEAT)
    }
}

fn fault<T>(kind: Kind, text: String) -> Result<T, Fault> {
    Err(Fault { kind, text })
}

/// Judges a whole run: everybody is connected, and what was published last was acknowledged on a calm system. Returns all
/// that is wrong, the worst first.
pub fn judge(
    clients: &[&[Story; TOPICS.len()]],
    publications: &[Publication],
    counted_gaps: u64,
    excuses: &Excuses,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut add = |found: Result<(), Fault>, who: &str| {
        faults.extend(found.err().map(|own| Fault::new(own.kind, format!("{who}{}", own.text))));
    };
    add(contents(clients, publications, excuses), "");
    let mut heard = 0;
    for (number, client) in clients.iter().enumerate() {
        for (at, story) in client.iter().enumerate() {
            let who = format!("client {number}, {}: ", TOPICS[at].0);
            heard += story.seen.iter().filter(|seen| matches!(seen, Seen::Gap { .. })).count() as u64;
            let is_certain = |number: &usize| publications.get(*number).is_none_or(|own| !excuses.covers(own));
            add(order(story, is_certain), &who);
            if TOPICS[at].1 == Class::State {
                add(newest(story, at, publications), &who);
                add(no_gap(story), &who);
            } else {
                add(owed(story, at, publications, excuses), &who);
                add(ends(story, at, publications), &who);
                add(over_had(story, is_certain), &who);
                add(over_nothing(story, at, publications, excuses), &who);
                add(blamed(story, at, publications), &who);
            }
        }
    }
    if heard > counted_gaps {
        add(fault(Kind::Uncounted, format!("{heard} gaps heard, {counted_gaps} counted")), "");
    }
    faults.sort();
    faults
}

/// Every id has one content, whoever says so.
fn contents(clients: &[&[Story; TOPICS.len()]], publications: &[Publication], excuses: &Excuses) -> Result<(), Fault> {
    let is_certain = |number: usize| publications.get(number).is_none_or(|own| !excuses.covers(own));
    let mut known = BTreeMap::new();
    let mut check = |topic: usize, id: StreamId, number: usize| match known.insert((topic, id), number) {
        Some(other) if other != number && is_certain(other) && is_certain(number) => {
            fault(Kind::TwoContents, format!("{}: {id} is {other} and {number}", TOPICS[topic].0))
        }
        _ => Ok(()),
    };
    for (number, publication) in publications.iter().enumerate() {
        if let Outcome::Acknowledged(id) = publication.outcome {
            check(publication.topic, id, number)?;
        }
    }
    for client in clients {
        for (topic, story) in client.iter().enumerate() {
            for seen in &story.seen {
                if let Seen::Message { id, number, .. } = seen {
                    check(topic, *id, *number)?;
                }
            }
        }
    }
    Ok(())
}

/// Nothing twice, and ids only grow. A value that a subscription begins with is shown again.
fn order(story: &Story, is_certain: impl Fn(&usize) -> bool) -> Result<(), Fault> {
    let (mut had, mut last) = (BTreeSet::new(), None::<StreamId>);
    for seen in &story.seen {
        let Seen::Message { id, number, snapshot, .. } = seen else { continue };
        if *number == usize::MAX || !is_certain(number) {
            continue;
        }
        if !had.insert(*number) && !snapshot {
            return fault(Kind::Twice, format!("{number} ({id}) came twice"));
        }
        if last.is_some_and(|last| *id <= last) && !snapshot {
            return fault(Kind::Disorder, format!("{number} ({id}) came after {}", last.unwrap_or_default()));
        }
        last = Some(*id);
    }
    Ok(())
}

/// What was called complete has no gap in it: none was told before its end, and none later over what had been published
/// before the connection began.
fn ends(story: &Story, topic: usize, publications: &[Publication]) -> Result<(), Fault> {
    let (mut connection, mut told) = (0, None);
    for (at, seen) in story.seen.iter().enumerate() {
        match seen {
            Seen::Subscribed { begun, .. } => (connection, told) = (*begun, None),
            Seen::Gap { after, .. } => told = told.or(Some(*after)),
            Seen::CaughtUp { complete: true, cursor } => {
                let end = cursor.unwrap_or_default();
                if let Some(after) = told {
                    return fault(Kind::FalseComplete, format!("complete up to {end}, with a gap after {after}"));
                }
                let is_same = |range: &&Range| {
                    let between = &story.seen[at..range.at.max(at)];
                    range.at > at && !between.iter().any(|seen| matches!(seen, Seen::Subscribed { .. }))
                };
                for range in ranges(story).iter().filter(is_same) {
                    let earlier = publications[..connection].iter().enumerate();
                    let mut lost = earlier.filter(|(number, own)| own.topic == topic && !came(story, *number));
                    let covered = |own: &Publication| matches!(own.outcome, Outcome::Acknowledged(id) if range.covers(id) && id <= end);
                    if let Some((number, _)) = lost.find(|(_, own)| covered(own)) {
                        return fault(Kind::FalseComplete, format!("complete up to {end}, then a gap over {number}"));
                    }
                }
            }
            Seen::CaughtUp { .. } | Seen::Message { .. } => {}
        }
    }
    Ok(())
}

/// A cursor that nobody was given, and a payload that nobody can read, are no loss of Redis.
fn blamed(story: &Story, topic: usize, publications: &[Publication]) -> Result<(), Fault> {
    for (range, seen) in ranges(story).iter().map(|range| (range, &story.seen[range.at])) {
        let Seen::Gap { reason, .. } = seen else { continue };
        let missing = |own: &&Publication| {
            own.topic == topic && matches!(own.outcome, Outcome::Acknowledged(id) if range.covers(id))
        };
        let mut missing = publications.iter().filter(missing).peekable();
        let is_odd = missing.peek().is_some() && missing.all(|own| own.is_odd);
        if reason == "failover" && (is_odd || range.after == MADE_UP) {
            let (after, before) = (range.after, range.before);
            return fault(Kind::Blamed, format!("gap {after} to {before} is told as a failover"));
        }
    }
    Ok(())
}

/// Everything that was acknowledged came, or was told as missing. Owed is what was published after the client heard that
/// its first subscription stands.
fn owed(story: &Story, topic: usize, publications: &[Publication], excuses: &Excuses) -> Result<(), Fault> {
    let begun = story.seen.iter().find_map(|seen| match seen {
        Seen::Subscribed { begun, .. } => Some(*begun),
        _ => None,
    });
    let Some(begun) = begun else { return fault(Kind::Stuck, "was never subscribed".into()) };
    let ranges = ranges(story);
    for (number, publication) in publications.iter().enumerate().skip(begun) {
        let Outcome::Acknowledged(id) = publication.outcome else { continue };
        if publication.topic != topic
            || excuses.covers(publication)
            || came(story, number)
            || ranges.iter().any(|range| range.covers(id))
        {
            continue;
        }
        let kind = if number + TOPICS.len() >= publications.len() { Kind::Stuck } else { Kind::Silent };
        return fault(kind, format!("{number} ({id}) by {} is missing and was not told", publication.by));
    }
    Ok(())
}

fn came(story: &Story, number: usize) -> bool {
    story.seen.iter().any(|seen| matches!(seen, Seen::Message { number: own, .. } if *own == number))
}

/// A range that was told as missing.
#[derive(Debug)]
struct Range {
    at: usize,
    after: StreamId,
    before: StreamId,
}

impl Range {
    fn covers(&self, id: StreamId) -> bool {
        self.after < id && id < self.before
    }
}

/// One without an end reaches to what came next.
fn ranges(story: &Story) -> Vec<Range> {
    let gap = |(at, seen): (usize, &Seen)| {
        let Seen::Gap { after, before, .. } = seen else { return None };
        let next = story.seen[at..].iter().find_map(|seen| match seen {
            Seen::Message { id, .. } => Some(*id),
            _ => None,
        });
        let before = before.or(next).unwrap_or(StreamId::MAX);
        Some(Range { at, after: *after, before })
    };
    story.seen.iter().enumerate().filter_map(gap).collect()
}

/// No gap names what the client has.
fn over_had(story: &Story, is_certain: impl Fn(&usize) -> bool) -> Result<(), Fault> {
    for Range { at, after, before, .. } in ranges(story) {
        for seen in &story.seen[..at] {
            if let Seen::Message { id, number, .. } = seen
                && after < *id
                && *id < before
                && is_certain(number)
            {
                return fault(Kind::GapOverHad, format!("gap {after} to {before} over {number} ({id}), which it has"));
            }
        }
    }
    Ok(())
}

/// Each gap names something that the client has not. One from `0-0` may be told always, one in doubt wherever something
/// may be missing.
fn over_nothing(story: &Story, topic: usize, publications: &[Publication], excuses: &Excuses) -> Result<(), Fault> {
    let is_excused = |range: &Range| match &story.seen[range.at] {
        Seen::Gap { count: None, reason, .. } if reason == "failover" && excuses.doubtful => true,
        Seen::Gap { reason, .. } if reason == "retention" && excuses.vanished[topic] => true,
        Seen::Gap { .. } => publications.iter().any(|own| own.topic == topic && excuses.covers(own)),
        _ => false,
    };
    for range in ranges(story).iter().filter(|range| ![StreamId::ZERO, MADE_UP].contains(&range.after)) {
        let missing = publications.iter().enumerate().any(|(number, own)| match own.outcome {
            Outcome::Acknowledged(id) if own.topic == topic && range.covers(id) => {
                !came(story, number) || excuses.covers(own)
            }
            Outcome::Acknowledged(_) => false,
            // It may have been stored and lost.
            Outcome::Unknown | Outcome::Pending => own.topic == topic,
            Outcome::Refused => false,
        });
        if !missing && !is_excused(range) {
            let Range { after, before, .. } = range;
            return fault(Kind::GapOverNothing, format!("gap {after} to {before}, where nothing is missing"));
        }
    }
    Ok(())
}

/// Of a topic whose newest value is all that is owed nobody is told a gap.
fn no_gap(story: &Story) -> Result<(), Fault> {
    match story.seen.iter().find(|seen| matches!(seen, Seen::Gap { .. })) {
        Some(gap) => fault(Kind::GapOverNothing, format!("only the newest value is owed: {gap:?}")),
        None => Ok(()),
    }
}

/// The last value came.
fn newest(story: &Story, topic: usize, publications: &[Publication]) -> Result<(), Fault> {
    let last = publications.iter().enumerate().rev().find(|(_, own)| own.topic == topic);
    match last {
        Some((number, own)) if matches!(own.outcome, Outcome::Acknowledged(_)) && !came(story, number) => {
            fault(Kind::Stuck, format!("the last value {number} never came"))
        }
        _ => Ok(()),
    }
}

/// A story in one line.
pub fn tell(story: &Story) -> String {
    let seen = |seen: &Seen| match seen {
        Seen::Subscribed { cursor, gateway, .. } => format!("|at {gateway} {cursor}|"),
        Seen::Message { id, number, snapshot, replayed } => {
            let mark = match (snapshot, replayed) {
                (true, _) => " snapshot",
                (_, true) => " replayed",
                _ => "",
            };
            let number = if *number == usize::MAX { "stray".to_owned() } else { number.to_string() };
            format!("{number}={id}{mark}")
        }
        Seen::Gap { after, before, count, reason, .. } => {
            let before = before.map_or("…".to_owned(), |before| before.to_string());
            let count = count.map_or("?".to_owned(), |count| count.to_string());
            format!("[gap {after} to {before}, {count}, {reason}]")
        }
        Seen::CaughtUp { complete, .. } => format!("(caught up, complete {complete})"),
    };
    story.seen.iter().map(seen).collect::<Vec<_>>().join(" ")
}
