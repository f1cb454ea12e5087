//! What the service has yet to do, without doing any of it: which images to look at, and which of those to compile next.
//!
//! An image is in here once, however often it is heard of. One that is heard of while it is worked on is looked at once more
//! afterwards; one that is removed is forgotten, and what its work comes to is of no interest then.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// An image record, by its names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) namespace: String,
    pub(super) image: String,
}

/// What is compiled first: what comes first in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Urgency {
    /// What a label of the image says, lower first; images that say nothing come last.
    pub(super) rank: i64,
    /// Bytes of wasm: the small ones do not have to wait for the big ones.
    pub(super) size: u64,
}

/// Images by what is to be done with them.
#[derive(Debug)]
pub(super) struct Queue<T> {
    states: HashMap<Key, State>,
    /// To be looked at, in the order in which they were heard of. May name images that have gone on meanwhile.
    unseen: VecDeque<Key>,
    /// To be compiled; of equally urgent ones the one that has waited longest.
    ready: BTreeMap<(Urgency, u64), (Key, T)>,
    count: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unseen,
    Ready(Urgency, u64),
    /// Somebody looks at it or compiles it.
    Busy {
        /// It was heard of since.
        again: bool,
        /// It was removed since.
        gone: bool,
    },
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { states: HashMap::new(), unseen: VecDeque::new(), ready: BTreeMap::new(), count: 0 }
    }
}

impl<T> Queue<T> {
    /// Returns how many images wait or are worked on.
    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    /// Notes that an image is there, or is another than before.
    pub(super) fn add(&mut self, key: Key) {
        match self.states.get_mut(&key) {
            Some(State::Unseen) => {}
            Some(State::Busy { again, .. }) => *again = true,
            Some(State::Ready(urgency, number)) => {
                let place = (*urgency, *number);
                self.ready.remove(&place);
                self.see(key);
            }
            None => self.see(key),
        }
    }

    fn see(&mut self, key: Key) {
        self.states.insert(key.clone(), State::Unseen);
        self.unseen.push_back(key);
    }

    /// Notes that an image is gone.
    pub(super) fn remove(&mut self, key: &Key) {
        match self.states.get_mut(key) {
            Some(State::Busy { again, gone }) => (*again, *gone) = (false, true),
            Some(State::Ready(urgency, number)) => {
                let place = (*urgency, *number);
                self.ready.remove(&place);
                self.states.remove(key);
            }
            Some(State::Unseen) => drop(self.states.remove(key)),
            None => {}
        }
    }

    /// Takes the next image to look at. It is busy until [`Self::looked`].
    pub(super) fn next_unseen(&mut self) -> Option<Key> {
        while let Some(key) = self.unseen.pop_front() {
            // One that was removed and heard of again is named twice.
            if let Some(state @ State::Unseen) = self.states.get_mut(&key) {
                *state = State::Busy { again: false, gone: false };
                return Some(key);
            }
        }
        None
    }

    /// Gives an image back that has been looked at: with what there is to do, or with nothing.
    pub(super) fn looked(&mut self, key: Key, work: Option<(Urgency, T)>) {
        if let (Some(State::Busy { again: false, gone: false }), Some((urgency, work))) = (self.states.get(&key), work)
        {
            self.count += 1;
            self.states.insert(key.clone(), State::Ready(urgency, self.count));
            self.ready.insert((urgency, self.count), (key, work));
        } else {
            self.done(key);
        }
    }

    /// Takes the image to compile next. It is busy until [`Self::done`].
    pub(super) fn next_ready(&mut self) -> Option<(Key, T)> {
        let (_, (key, work)) = self.ready.pop_first()?;
        self.states.insert(key.clone(), State::Busy { again: false, gone: false });
        Some((key, work))
    }

    /// Gives an image back that has been worked on; says whether it is still there.
    pub(super) fn done(&mut self, key: Key) -> bool {
        match self.states.remove(&key) {
            Some(State::Busy { again: true, .. }) => {
                self.see(key);
                true
            }
            Some(State::Busy { gone, .. }) => !gone,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(image: &str) -> Key {
        Key { namespace: "default".to_owned(), image: image.to_owned() }
    }

    fn urgency(rank: i64, size: u64) -> Urgency {
        Urgency { rank, size }
    }

    /// Looks at everything that is unseen; sizes are those given.
    fn look(queue: &mut Queue<u64>, size: impl Fn(&str) -> Urgency) -> usize {
        let mut looked = 0;
        while let Some(key) = queue.next_unseen() {
            let urgency = size(&key.image);
            queue.looked(key, Some((urgency, urgency.size)));
            looked += 1;
        }
        looked
    }

    fn order(queue: &mut Queue<u64>) -> Vec<String> {
        std::iter::from_fn(|| queue.next_ready().map(|(key, _)| key.image)).collect()
    }

    /// However often an image is heard of before it is looked at, it is looked at once.
    #[test]
    fn a_storm_is_one_look() {
        let mut queue = Queue::default();
        for _ in 0..1000 {
            queue.add(key("a"));
        }
        assert_eq!(queue.len(), 1);
        assert_eq!(look(&mut queue, |_| urgency(0, 1)), 1);
        assert_eq!(order(&mut queue), ["a"]);
    }

    /// The lowest rank comes first, then the smallest, then the one that has waited longest.
    #[test]
    fn the_urgent_come_first() {
        let mut queue = Queue::default();
        for name in ["big", "small", "same", "ranked"] {
            queue.add(key(name));
        }
        look(&mut queue, |name| match name {
            "big" => urgency(i64::MAX, 9),
            "ranked" => urgency(-1, 100),
            _ => urgency(i64::MAX, 1),
        });
        assert_eq!(order(&mut queue), ["ranked", "small", "same", "big"]);
    }

    /// An image that is heard of while it is worked on is looked at again, once, when that is done.
    #[test]
    fn news_during_work_are_not_lost() {
        let mut queue = Queue::default();
        queue.add(key("a"));
        look(&mut queue, |_| urgency(0, 1));
        let (working, _) = queue.next_ready().unwrap();
        queue.add(key("a"));
        queue.add(key("a"));
        assert_eq!(queue.next_unseen(), None);
        assert!(queue.done(working));
        assert_eq!(queue.next_unseen(), Some(key("a")));
        assert_eq!(queue.next_unseen(), None);
    }

    /// One that is heard of while it waits for its compile is looked at again before that, and waits once.
    #[test]
    fn news_while_waiting_are_looked_at_first() {
        let mut queue = Queue::default();
        queue.add(key("a"));
        look(&mut queue, |_| urgency(0, 1));
        queue.add(key("a"));
        assert_eq!(queue.next_ready(), None);
        look(&mut queue, |_| urgency(0, 2));
        assert_eq!(order(&mut queue), ["a"]);
    }

    /// What is removed is forgotten, whatever it waits for; of what is worked on it is said at the end.
    #[test]
    fn removed_images_are_forgotten() {
        let mut queue = Queue::<u64>::default();
        queue.add(key("unseen"));
        queue.remove(&key("unseen"));
        assert_eq!(queue.next_unseen(), None);
        queue.add(key("ready"));
        look(&mut queue, |_| urgency(0, 1));
        queue.remove(&key("ready"));
        assert_eq!(queue.next_ready(), None);
        queue.add(key("looked at"));
        let looking = queue.next_unseen().unwrap();
        queue.remove(&looking);
        queue.looked(looking, Some((urgency(0, 1), 1)));
        assert_eq!(queue.next_ready(), None);
        queue.add(key("busy"));
        look(&mut queue, |_| urgency(0, 1));
        let (busy, _) = queue.next_ready().unwrap();
        queue.remove(&busy);
        assert!(!queue.done(busy));
        assert_eq!(queue.len(), 0);
    }

    /// One that is removed and comes back while it is worked on is there, and looked at again.
    #[test]
    fn one_that_comes_back_is_new() {
        let mut queue = Queue::<u64>::default();
        queue.add(key("a"));
        let looking = queue.next_unseen().unwrap();
        queue.remove(&key("a"));
        queue.add(key("a"));
        queue.looked(looking, Some((urgency(0, 1), 1)));
        assert_eq!(queue.next_unseen(), Some(key("a")));
    }
}
