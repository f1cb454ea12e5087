//! The queue of the service: the images to inspect, and the order in which to compile them. The queue does none of the work.
//!
//! The queue holds each image once, however many events name it. An image with an event during its work is inspected once more
//! afterwards. A removed image is dropped, and the result of its current work is ignored.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// The key of an image record: namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) namespace: String,
    pub(super) image: String,
}

/// The order of compiles: the least value comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Urgency {
    /// The number in a label of the image, lower first; images without the label come last.
    pub(super) rank: i64,
    /// Size of the wasm in bytes: small images need not wait for large ones.
    pub(super) size: u64,
}

/// Images by their state.
#[derive(Debug)]
pub(super) struct Queue<T> {
    states: HashMap<Key, State>,
    /// Images to inspect, in the order of their events. May contain images whose state has changed since.
    unseen: VecDeque<Key>,
    /// Images to compile; of equal urgency, the one that has waited longest comes first.
    ready: BTreeMap<(Urgency, u64), (Key, T)>,
    count: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unseen,
    Ready(Urgency, u64),
    /// The image is being inspected or compiled.
    Busy {
        /// An event has named it since.
        again: bool,
        /// It has been removed since.
        gone: bool,
    },
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { states: HashMap::new(), unseen: VecDeque::new(), ready: BTreeMap::new(), count: 0 }
    }
}

impl<T> Queue<T> {
    /// Returns the number of images that wait or are worked on.
    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    /// Records that an image exists or has changed.
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

    /// Records that an image was removed.
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

    /// Takes the next image to inspect. It is busy until [`Self::looked`].
    pub(super) fn next_unseen(&mut self) -> Option<Key> {
        while let Some(key) = self.unseen.pop_front() {
            // An image that was removed and added again is in the queue twice.
            if let Some(state @ State::Unseen) = self.states.get_mut(&key) {
                *state = State::Busy { again: false, gone: false };
                return Some(key);
            }
        }
        None
    }

    /// Returns an image after its inspection, with the work that it needs, or none.
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

    /// Returns an image after its work; the result says whether it still exists.
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

    /// Inspects all images that wait for it; `size` gives their urgency.
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

    /// Several events before an inspection lead to one inspection.
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

    /// The lowest rank comes first, then the smallest image, then the one that has waited longest.
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

    /// An image with an event during its work is inspected again, once, after that.
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

    /// An image with an event while it waits for its compile is inspected again before, and waits once.
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

    /// A removed image is dropped in any waiting state; after current work the result says so.
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

    /// An image that is removed and added again during its work still exists, and is inspected again.
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
