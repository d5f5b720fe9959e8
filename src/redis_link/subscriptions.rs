//! The desired and the actual subscriptions of the pub/sub link, and the receivers of its messages. No I/O.
//!
//! The desired and the actual state differ: callers change the former immediately, the link's task changes the latter
//! in large steps, and the server's confirmations are reported only if nothing in flight would undo them.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    mem,
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::fairness::Rounds;

/// Events of followed channels.
#[derive(Debug)]
pub enum ChannelEvent<'a> {
    /// A message on a followed channel.
    Message {
        /// The name in Redis.
        channel: &'a str,
        /// The bytes as published.
        payload: Vec<u8>,
    },
    /// The subscription is active: everything published from now on arrives.
    Confirmed {
        /// The name in Redis.
        channel: &'a str,
    },
    /// The link was lost: messages may have been missed on the channel; it will be confirmed again.
    Lost {
        /// The name in Redis.
        channel: &'a str,
    },
    /// Another server responds than before.
    GenerationChanged,
}

/// Called for each event in the link's own task. Must not block.
pub type EventReceiver = Box<dyn Fn(ChannelEvent<'_>) + Send + Sync>;

/// Called with each message of a control channel in the link's own task. Must not block.
pub type ControlCallback = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// All channels of the link.
pub(super) struct ChannelSubscriptions {
    canary: String,
    receiver: std::sync::OnceLock<EventReceiver>,
    controls: RwLock<HashMap<Box<str>, ControlCallback>>,
    table: Mutex<ChannelTable>,
    /// Changes in the table wait for the link's task.
    pub(super) changed: Notify,
}

/// A step may unsubscribe this fraction (one in four) of its limit even if it subscribes fewer channels: small enough not
/// to delay the next subscription for long.
const GIVE_UP_SHARE: usize = 4;

#[derive(Default)]
struct ChannelTable {
    channels: HashMap<Arc<str>, ChannelState>,
    /// Channels to subscribe, by round, then by arrival.
    wanted: BTreeMap<(u64, u64), Arc<str>>,
    rounds: Rounds,
    came: u64,
    /// Channels to unsubscribe, first in, first out. A channel that is requested again stays here too, and is skipped.
    /// Each lane therefore contains a channel at most once.
    given_up: VecDeque<Arc<str>>,
}

#[derive(Default)]
struct ChannelState {
    wanted: bool,
    /// SUBSCRIBE was sent after the last UNSUBSCRIBE on this link.
    subscribed: bool,
    /// SUBSCRIBEs (or UNSUBSCRIBEs) sent on this link that the server has not confirmed.
    subscribes_open: u32,
    unsubscribes_open: u32,
    /// The caller has not been notified that the subscription is active.
    unannounced: bool,
    /// Where it waits: the desired and the actual state may differ.
    waits: Option<ChannelQueue>,
    /// It is in the unsubscribe lane, whether or not it waits there.
    in_given_up: bool,
    /// On whose behalf it is followed.
    owner: Option<u64>,
}

/// One of the queues of channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChannelQueue {
    Wanted,
    GivenUp,
}

/// One step of the link's task.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LinkStep {
    pub(super) subscribe: Vec<Arc<str>>,
    pub(super) unsubscribe: Vec<Arc<str>>,
    /// Requested again while the subscription was still active.
    pub(super) confirmed: Vec<Arc<str>>,
    /// Channels wait for another step. A step with nothing to send may have a successor with something: many channels
    /// may have been requested and released before their turn came.
    pub(super) more: bool,
}

impl ChannelState {
    const fn stands(&self) -> bool {
        self.subscribed && self.subscribes_open == 0
    }

    const fn idle(&self) -> bool {
        !self.wanted
            && !self.subscribed
            && self.subscribes_open == 0
            && self.unsubscribes_open == 0
            && self.waits.is_none()
            && !self.in_given_up
    }
}

impl ChannelTable {
    /// Changes a channel, which then waits in a lane. A channel that already waits to be subscribed keeps its place.
    fn touch(&mut self, name: &str, lane: ChannelQueue, change: impl FnOnce(&mut ChannelState)) {
        let key = self.channels.get_key_value(name).map_or_else(|| name.into(), |(key, _)| Arc::clone(key));
        let channel = self.channels.entry(Arc::clone(&key)).or_default();
        change(channel);
        if channel.waits == Some(ChannelQueue::Wanted) || channel.waits == Some(lane) {
            return;
        }
        channel.waits = Some(lane);
        match lane {
            ChannelQueue::Wanted => {
                let owner = channel.owner;
                self.want(key, owner);
            }
            ChannelQueue::GivenUp if !mem::replace(&mut channel.in_given_up, true) => self.given_up.push_back(key),
            ChannelQueue::GivenUp => {}
        }
    }

    /// A channel waits to be subscribed.
    fn want(&mut self, name: Arc<str>, owner: Option<u64>) {
        self.came += 1;
        self.wanted.insert((self.rounds.next(owner), self.came), name);
    }

    fn pop(&mut self, lane: ChannelQueue) -> Option<Arc<str>> {
        match lane {
            ChannelQueue::Wanted => {
                let ((round, _), name) = self.wanted.pop_first()?;
                self.rounds.served(round);
                Some(name)
            }
            ChannelQueue::GivenUp => self.given_up.pop_front(),
        }
    }

    /// Checks this many channels of a lane, and adds what they need to the step.
    fn advance(&mut self, lane: ChannelQueue, count: usize, step: &mut LinkStep) {
        for _ in 0..count {
            let Some(name) = self.pop(lane) else { return };
            let Some(channel) = self.channels.get_mut(&name) else { continue };
            channel.in_given_up &= lane != ChannelQueue::GivenUp;
            if channel.waits == Some(lane) {
                channel.waits = None;
            } else if channel.waits.is_some() {
                continue;
            }
            match (channel.wanted, channel.subscribed) {
                (true, false) => {
                    channel.subscribed = true;
                    channel.subscribes_open += 1;
                    step.subscribe.push(name);
                }
                (false, true) => {
                    channel.subscribed = false;
                    channel.unsubscribes_open += 1;
                    step.unsubscribe.push(name);
                }
                (true, true) if channel.stands() && mem::take(&mut channel.unannounced) => step.confirmed.push(name),
                (false, false) if channel.idle() => drop(self.channels.remove(&name)),
                _ => {}
            }
        }
    }
}

impl ChannelSubscriptions {
    pub(super) fn new(canary: String) -> Self {
        Self {
            canary,
            receiver: std::sync::OnceLock::new(),
            controls: RwLock::default(),
            table: Mutex::default(),
            changed: Notify::new(),
        }
    }

    pub(super) fn set_receiver(&self, receiver: EventReceiver) {
        let _ = self.receiver.set(receiver);
    }

    pub(super) fn canary(&self) -> &str {
        &self.canary
    }

    /// `owner`: on whose behalf; channels of different owners take turns.
    pub(super) fn follow(&self, name: &str, owner: Option<u64>) {
        self.table.lock().touch(name, ChannelQueue::Wanted, |channel| {
            channel.wanted = true;
            channel.unannounced = true;
            channel.owner = owner;
        });
        self.changed.notify_one();
    }

    pub(super) fn unfollow(&self, name: &str) {
        self.table.lock().touch(name, ChannelQueue::GivenUp, |channel| channel.wanted = false);
        self.changed.notify_one();
    }

    pub(super) fn subscribe_control(&self, name: &str, callback: ControlCallback) {
        self.controls.write().insert(name.into(), callback);
        self.follow(name, None);
    }

    pub(super) fn emit(&self, event: ChannelEvent<'_>) {
        if let Some(receiver) = self.receiver.get() {
            receiver(event);
        }
    }

    /// The link was lost, and with it every followed channel.
    pub(super) fn emit_lost(&self) {
        let followed: Vec<Arc<str>> = {
            let table = self.table.lock();
            let wanted = table.channels.iter().filter(|(_, channel)| channel.wanted);
            wanted.map(|(name, _)| Arc::clone(name)).collect()
        };
        for channel in followed.iter().filter(|name| !self.is_control(name)) {
            self.emit(ChannelEvent::Lost { channel });
        }
    }

    /// Passes a message to the receiver of its channel.
    pub(super) fn deliver(&self, channel: &str, payload: Vec<u8>) {
        let control = self.controls.read().get(channel).cloned();
        match control {
            Some(callback) => callback(&payload),
            None => self.emit(ChannelEvent::Message { channel, payload }),
        }
    }

    /// A new link: nothing is subscribed on it. The control channels come in the first step.
    pub(super) fn restart(&self) {
        let mut table = self.table.lock();
        table.channels.retain(|_, channel| channel.wanted);
        table.wanted.clear();
        table.given_up.clear();
        let anew = |(name, channel): (&Arc<str>, &mut ChannelState)| {
            let (waits, owner) = (Some(ChannelQueue::Wanted), channel.owner);
            *channel = ChannelState { wanted: true, unannounced: true, waits, owner, ..ChannelState::default() };
            (Arc::clone(name), owner)
        };
        let (controls, others): (Vec<_>, Vec<_>) =
            table.channels.iter_mut().map(anew).partition(|(name, _)| self.is_control(name));
        // Each in the current round: before all that come later.
        controls.into_iter().for_each(|(name, _)| table.want(name, None));
        others.into_iter().for_each(|(name, owner)| table.want(name, owner));
        self.changed.notify_one();
    }

    /// The next step towards the desired state; checks at most `limit` channels of each kind. The caller sends it, and
    /// asks again while there is more.
    ///
    /// A step unsubscribes at least as many channels as it subscribes, if that many wait: the channels that wait to be
    /// unsubscribed never exceed those that were subscribed at the same time.
    pub(super) fn step(&self, limit: usize) -> LinkStep {
        let mut step = LinkStep::default();
        let mut table = self.table.lock();
        let wanted = table.wanted.len().min(limit);
        table.advance(ChannelQueue::Wanted, wanted, &mut step);
        table.advance(ChannelQueue::GivenUp, wanted.max(limit.div_ceil(GIVE_UP_SHARE)), &mut step);
        step.more = !table.wanted.is_empty() || !table.given_up.is_empty();
        step
    }

    /// The server confirmed a SUBSCRIBE. True if the subscription is active and the caller has not been notified.
    pub(super) fn confirm_subscribe(&self, name: &str) -> bool {
        let mut table = self.table.lock();
        let Some(channel) = table.channels.get_mut(name) else { return false };
        channel.subscribes_open = channel.subscribes_open.saturating_sub(1);
        channel.wanted && channel.stands() && mem::take(&mut channel.unannounced)
    }

    /// The server ended a subscription. False if it was not requested: the link cannot be trusted.
    pub(super) fn confirm_unsubscribe(&self, name: &str) -> bool {
        let mut table = self.table.lock();
        let Some(channel) = table.channels.get_mut(name) else { return false };
        if channel.unsubscribes_open == 0 {
            return false;
        }
        channel.unsubscribes_open -= 1;
        if channel.idle() {
            table.channels.remove(name);
        }
        true
    }

    /// Whether a channel is a control channel; those have no receiver of confirmations.
    pub(super) fn is_control(&self, name: &str) -> bool {
        self.controls.read().contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[Arc<str>]) -> Vec<&str> {
        list.iter().map(AsRef::as_ref).collect()
    }

    #[test]
    fn a_channel_is_subscribed_once_and_announced_once() {
        let subscriptions = ChannelSubscriptions::new("canary".into());
        subscriptions.follow("a", None);
        subscriptions.follow("a", None);
        assert_eq!(names(&subscriptions.step(10).subscribe), ["a"]);
        assert_eq!(subscriptions.step(10), LinkStep::default());
        assert!(subscriptions.confirm_subscribe("a"));
        assert!(!subscriptions.confirm_subscribe("a"));
    }

    #[test]
    fn requesting_an_active_channel_again_is_confirmed_without_the_server() {
        let subscriptions = ChannelSubscriptions::new("canary".into());
        subscriptions.follow("a", None);
        subscriptions.step(10);
        subscriptions.confirm_subscribe("a");
        subscriptions.unfollow("a");
        subscriptions.follow("a", None);
        let step = subscriptions.step(10);
        assert_eq!((names(&step.confirmed), step.subscribe.len(), step.unsubscribe.len()), (vec!["a"], 0, 0));
    }

    #[test]
    fn a_confirmation_undone_by_an_unsubscribe_is_not_reported() {
        let subscriptions = ChannelSubscriptions::new("canary".into());
        subscriptions.follow("a", None);
        subscriptions.step(10);
        subscriptions.unfollow("a");
        assert_eq!(names(&subscriptions.step(10).unsubscribe), ["a"]);
        subscriptions.follow("a", None);
        assert_eq!(names(&subscriptions.step(10).subscribe), ["a"]);
        assert!(!subscriptions.confirm_subscribe("a"), "the first SUBSCRIBE was undone");
        assert!(subscriptions.confirm_unsubscribe("a"));
        assert!(subscriptions.confirm_subscribe("a"), "the second one is active");
    }

    #[test]
    fn an_unrequested_unsubscribe_is_detected() {
        let subscriptions = ChannelSubscriptions::new("canary".into());
        subscriptions.follow("a", None);
        subscriptions.step(10);
        subscriptions.confirm_subscribe("a");
        assert!(!subscriptions.confirm_unsubscribe("a"));
        assert!(!subscriptions.confirm_unsubscribe("b"));
    }

    #[test]
    fn a_new_link_subscribes_all_requested_channels_in_steps() {
        let subscriptions = ChannelSubscriptions::new("canary".into());
        for name in ["a", "b", "c"] {
            subscriptions.follow(name, None);
        }
        subscriptions.step(10);
        subscriptions.unfollow("b");
        subscriptions.restart();
        let (first, second) = (subscriptions.step(1), subscriptions.step(10));
        let mut all = [names(&first.subscribe), names(&second.subscribe)].concat();
        all.sort_unstable();
        assert_eq!(all, ["a", "c"]);
        assert!(subscriptions.confirm_subscribe("a") && subscriptions.confirm_subscribe("c"));
    }

    #[test]
    fn a_requested_channel_does_not_wait_behind_released_channels() {
        let subscriptions = ChannelSubscriptions::new("canary".into());
        let give_up = |name: &str| {
            subscriptions.follow(name, None);
            subscriptions.unfollow(name);
        };
        (0..25).for_each(|number| give_up(&format!("before:{number}")));
        subscriptions.follow("a", None);
        (0..25).for_each(|number| give_up(&format!("after:{number}")));
        let (mut subscribed, mut idle) = (Vec::new(), 0);
        loop {
            let step = subscriptions.step(10);
            idle += usize::from(step.subscribe.is_empty());
            subscribed.extend(step.subscribe);
            if !step.more {
                break;
            }
        }
        assert_eq!(names(&subscribed), ["a"]);
        assert!(idle > 2, "steps with nothing to send are not the end");
        assert_eq!(subscriptions.table.lock().channels.len(), 1);
    }

    #[test]
    fn a_requested_channel_does_not_wait_for_released_ones_and_these_do_not_accumulate() {
        let subscriptions = ChannelSubscriptions::new("canary".into());
        let all: Vec<_> = (0..100).map(|number| format!("{number}")).collect();
        all.iter().for_each(|name| subscriptions.follow(name, None));
        while subscriptions.step(50).more {}
        all.iter().for_each(|name| assert!(subscriptions.confirm_subscribe(name)));
        all.iter().for_each(|name| subscriptions.unfollow(name));
        ["a", "b"].iter().for_each(|name| subscriptions.follow(name, None));
        let step = subscriptions.step(20);
        assert_eq!((names(&step.subscribe), step.unsubscribe.len()), (vec!["a", "b"], 5));
        let new: Vec<_> = (0..100).map(|number| format!("new:{number}")).collect();
        new.iter().for_each(|name| subscriptions.follow(name, None));
        let step = subscriptions.step(20);
        assert_eq!((step.subscribe.len(), step.unsubscribe.len()), (20, 20));
    }

    #[test]
    fn a_released_channel_that_is_requested_again_does_not_wait_behind_the_rest() {
        let subscriptions = ChannelSubscriptions::new("canary".into());
        let all: Vec<_> = (0..20).map(|number| format!("{number}")).collect();
        all.iter().for_each(|name| subscriptions.follow(name, None));
        while subscriptions.step(50).more {}
        all.iter().for_each(|name| assert!(subscriptions.confirm_subscribe(name)));
        all.iter().for_each(|name| subscriptions.unfollow(name));
        subscriptions.follow("19", None);
        assert_eq!(names(&subscriptions.step(4).confirmed), ["19"]);
        assert!(subscriptions.step(4).confirmed.is_empty());
        while subscriptions.step(4).more {}
        all[..19].iter().for_each(|name| assert!(subscriptions.confirm_unsubscribe(name)));
        assert_eq!(subscriptions.table.lock().channels.len(), 1);
    }

    #[test]
    fn a_channel_that_comes_and_goes_waits_once_in_each_lane() {
        let subscriptions = ChannelSubscriptions::new("canary".into());
        let idle: Vec<_> = (0..50).map(|number| format!("{number}")).collect();
        idle.iter().for_each(|name| subscriptions.follow(name, None));
        while subscriptions.step(50).more {}
        idle.iter().for_each(|name| subscriptions.unfollow(name));
        for _ in 0..20 {
            subscriptions.follow("a", None);
            subscriptions.step(1);
            subscriptions.unfollow("a");
        }
        assert_eq!(subscriptions.table.lock().given_up.len(), 50 - 20 + 1);
        while subscriptions.step(8).more {}
        let table = subscriptions.table.lock();
        let channel = &table.channels["a"];
        assert!(!channel.subscribed && !channel.in_given_up && channel.waits.is_none());
    }

    #[test]
    fn channels_are_subscribed_in_the_order_of_their_requests() {
        let subscriptions = ChannelSubscriptions::new("canary".into());
        ["a", "b", "c"].iter().for_each(|name| subscriptions.follow(name, None));
        assert_eq!(names(&subscriptions.step(2).subscribe), ["a", "b"]);
        subscriptions.follow("d", None);
        assert_eq!(names(&subscriptions.step(2).subscribe), ["c", "d"]);
    }

    #[test]
    fn owners_take_turns() {
        let subscriptions = ChannelSubscriptions::new("canary".into());
        (0..100).for_each(|number| subscriptions.follow(&format!("greedy:{number}"), Some(1)));
        subscriptions.step(10);
        subscriptions.follow("a", Some(2));
        subscriptions.follow("b", None);
        let step = subscriptions.step(3);
        assert_eq!(names(&step.subscribe), ["a", "b", "greedy:10"]);
        assert_eq!(names(&subscriptions.step(1).subscribe), ["greedy:11"]);
    }

    #[test]
    fn control_channels_are_subscribed_first_on_a_new_link() {
        let subscriptions = ChannelSubscriptions::new("canary".into());
        ["a", "b", "c"].iter().for_each(|name| subscriptions.follow(name, None));
        subscriptions.subscribe_control("control", Arc::new(|_| {}));
        subscriptions.restart();
        assert_eq!(names(&subscriptions.step(1).subscribe), ["control"]);
    }

    #[test]
    fn no_state_is_kept_for_a_channel_that_is_no_longer_requested() {
        let subscriptions = ChannelSubscriptions::new("canary".into());
        subscriptions.follow("a", None);
        subscriptions.step(10);
        subscriptions.confirm_subscribe("a");
        subscriptions.unfollow("a");
        subscriptions.step(10);
        assert!(subscriptions.confirm_unsubscribe("a"));
        subscriptions.follow("b", None);
        subscriptions.unfollow("b");
        subscriptions.step(10);
        assert!(subscriptions.table.lock().channels.is_empty());
    }
}
