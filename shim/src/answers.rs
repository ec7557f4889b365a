//! What the pod said to names, kept for as long as it is good.
//!
//! Programs look a name up at every connect, and asking the launcher costs three processes' turns. The launcher says for
//! how many seconds an answer is good (its TTL, or what is left of it); so long the answer is given from here, in the very
//! bytes in which it came.
//!
//! Invariants: nobody waits, and what is read was written together ([`Entry`]); an answer that is no longer good, or too
//! long for a place, is as good as none; failures are not kept.

use crate::seqlock::Entry;

/// Bytes of a place for a question and its answer: a name with a handful of addresses.
const ROOM: usize = WORDS.saturating_sub(1).saturating_mul(WORD);
/// With the entry's own numbers 512 bytes.
const WORDS: usize = 63;
const WORD: usize = size_of::<u64>();
/// Places that one question can be in.
const WAYS: usize = 2;
/// Groups of so many places; a power of two.
const SETS: usize = 128;

/// Questions and their answers. The first word of a place has their lengths.
pub(crate) struct Answers([[Entry<WORDS>; WAYS]; SETS]);

impl Answers {
    /// Empty; as a static it takes no memory until it is used.
    pub(crate) const fn new() -> Self {
        Self([const { [const { Entry::new() }; WAYS] }; SETS])
    }

    /// Copies the answer to `question` into `room`, and says how long it is; [`None`] if none is good at `now`.
    pub(crate) fn get(&self, question: &[u8], now: u32, room: &mut [u8]) -> Option<usize> {
        self.set(question)?.iter().filter(|entry| entry.until() > now).find_map(|entry| {
            let (words, until) = entry.read()?;
            let (lengths, words) = words.split_first()?;
            let mut bytes = [0; ROOM];
            for (to, from) in bytes.chunks_exact_mut(WORD).zip(words) {
                to.copy_from_slice(&from.to_ne_bytes());
            }
            let (asked, answered) = (*lengths as u32 as usize, (lengths >> 32) as usize);
            let (asked, rest) = bytes.split_at_checked(asked)?;
            let answer = rest.get(..answered).filter(|_| until > now && asked == question)?;
            room.get_mut(..answered)?.copy_from_slice(answer);
            Some(answered)
        })
    }

    /// Keeps an answer until the second `until`: in the place of what ends first.
    pub(crate) fn put(&self, question: &[u8], answer: &[u8], until: u32) {
        let place = self.set(question).and_then(|set| set.iter().min_by_key(|entry| entry.until()));
        let Some(place) = place.filter(|_| question.len().saturating_add(answer.len()) <= ROOM) else {
            return;
        };
        let mut bytes = question.iter().chain(answer);
        let mut words = [0; WORDS];
        let mut places = words.iter_mut();
        if let Some(lengths) = places.next() {
            *lengths = question.len() as u64 | (answer.len() as u64) << 32;
        }
        for place in places {
            let mut word = [0; WORD];
            for (to, from) in word.iter_mut().zip(&mut bytes) {
                *to = *from;
            }
            *place = u64::from_ne_bytes(word);
        }
        place.write(&words, until);
    }

    fn set(&self, question: &[u8]) -> Option<&[Entry<WORDS>; WAYS]> {
        // FNV-1a: a few dozen bytes, chosen by nobody who gains by a collision.
        let hash = question.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        self.0.get((hash >> (64 - SETS.ilog2())) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(answers: &Answers, question: &[u8], now: u32) -> Option<Vec<u8>> {
        let mut room = [0; 4096];
        answers.get(question, now, &mut room).map(|length| room[..length].to_vec())
    }

    #[test]
    fn an_answer_is_given_to_its_own_question_until_it_ends() {
        let answers = Answers::new();
        assert_eq!(get(&answers, b"backend", 0), None);
        answers.put(b"backend", b"10.96.0.7", 10);
        assert_eq!(get(&answers, b"backend", 9).as_deref(), Some(&b"10.96.0.7"[..]));
        assert_eq!(get(&answers, b"backen", 9), None);
        assert_eq!(get(&answers, b"backend", 10), None);
        answers.put(b"backend", b"10.96.0.8", 20);
        assert_eq!(get(&answers, b"backend", 10).as_deref(), Some(&b"10.96.0.8"[..]));
    }

    #[test]
    fn what_is_too_long_for_a_place_or_for_the_asker_is_not_given() {
        let answers = Answers::new();
        for length in [ROOM - 7, ROOM - 6] {
            answers.put(b"backend", &vec![7; length], 10);
        }
        assert_eq!(get(&answers, b"backend", 0).map(|answer| answer.len()), Some(ROOM - 7));
        assert_eq!(answers.get(b"backend", 0, &mut [0; 8]), None);
    }

    #[test]
    fn what_ends_first_makes_room() {
        let answers = Box::new(Answers::new());
        for number in 0..4_000_u32 {
            answers.put(&number.to_ne_bytes(), &number.to_be_bytes(), 1 + number);
        }
        let found = |number: &u32| {
            let answer = get(&answers, &number.to_ne_bytes(), 0);
            assert!(answer.as_ref().is_none_or(|answer| **answer == number.to_be_bytes()));
            answer.is_some()
        };
        assert!(found(&3_999));
        assert!((0..4_000).filter(found).count() > SETS * WAYS * 9 / 10);
    }
}
