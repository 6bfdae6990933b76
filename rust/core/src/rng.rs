//! Randomness: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3",
//! 2011). Every number is a function of (seed, purpose, layer, epoch, index); nothing depends on the
//! order of draws, on threads or on time.

use crate::simd::kernel;

/// What a stream of numbers is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Weight = 1,
    Bias = 2,
    Shuffle = 3,
    Dropout = 4,
    Split = 5,
    Noise = 6,
    Blocks = 7,
}

/// Distance of two neighbouring uniform numbers, 2^-53.
const SPACING: f64 = 1.0 / (1u64 << 53) as f64;

/// One stream: the numbers of one purpose, layer and epoch under one seed.
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    key: [u32; 2],
    epoch: u32,
    tag: u32,
}

impl Stream {
    pub fn new(seed: u64, purpose: Purpose, layer: usize, epoch: u64) -> Self {
        Self {
            key: [seed as u32, (seed >> 32) as u32],
            epoch: epoch as u32,
            tag: (purpose as u32) << 16 | (layer as u32 & 0xffff),
        }
    }

    /// The four words of block `index`.
    #[inline(always)]
    pub fn block(&self, index: u64) -> [u32; 4] {
        let counter = [index as u32, (index >> 32) as u32, self.epoch, self.tag];
        philox(counter, self.key)
    }

    /// The 64-bit number `index`.
    pub fn word64(&self, index: u64) -> u64 {
        let block = self.block(index / 2);
        let pair = 2 * (index % 2) as usize;
        u64::from(block[pair]) | u64::from(block[pair + 1]) << 32
    }

    /// Number `index`, uniform in [0, 1).
    pub fn uniform(&self, index: u64) -> f64 {
        (self.word64(index) >> 11) as f64 * SPACING
    }

    /// Number `index`, uniform in (0, 1).
    pub fn open_uniform(&self, index: u64) -> f64 {
        ((self.word64(index) >> 11) as f64 + 0.5) * SPACING
    }
}

/// Ten rounds of Philox on four words.
#[inline(always)]
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key[0] = key[0].wrapping_add(0x9E37_79B9);
            key[1] = key[1].wrapping_add(0xBB67_AE85);
        }
        let first = u64::from(counter[0]) * 0xD251_1F53;
        let second = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
    }
    counter
}

kernel! {
    /// Blocks `first..` of a stream; word w of the i-th goes to `words[w][i]`.
    fn blocks[](stream: Stream, first: u64, words: &mut [[u32; BULK]; 4])[] {
        for i in 0..BULK {
            let block = stream.block(first.wrapping_add(i as u64));
            for w in 0..4 {
                words[w][i] = block[w];
            }
        }
    }
}

/// Blocks that are made at once.
const BULK: usize = 32;

/// Fills `order` with the order in `epoch` of the rows of the data, or of its block in a place of the epoch.
pub fn shuffle(order: &mut [u32], seed: u64, epoch: u64, block: usize) {
    permute(order, Stream::new(seed, Purpose::Shuffle, block, epoch));
}

/// Fills `order` with a permutation: Fisher-Yates, where the bounded number is the high
/// half of a 64-bit product (its bias, below n / 2^64, is not measurable).
pub fn permute(order: &mut [u32], stream: Stream) {
    number_rows(order);
    let mut words = [[0; BULK]; 4];
    for (number, i) in (1..order.len()).rev().enumerate() {
        let (block, pair) = (number / 2 % BULK, number % 2 * 2);
        if block == 0 && pair == 0 {
            blocks(stream, number as u64 / 2, &mut words);
        }
        // The 64-bit number `number` of the stream.
        let random = u64::from(words[pair][block]) | u64::from(words[pair + 1][block]) << 32;
        let j = (u128::from(random) * (i as u128 + 1)) >> 64;
        order.swap(i, j as usize);
    }
}

/// Puts the rows in their own order.
pub fn number_rows(order: &mut [u32]) {
    for (i, row) in order.iter_mut().enumerate() {
        *row = i as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of Random123's kat_vectors for philox4x32-10.
    #[test]
    fn philox_gives_the_known_answers() {
        assert_eq!(
            philox([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn a_shuffle_is_a_permutation_that_depends_on_seed_and_epoch_alone() {
        let shuffled = |seed, epoch| {
            let mut order = vec![0; 1000];
            shuffle(&mut order, seed, epoch, 0);
            order
        };
        let order = shuffled(7, 3);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(sorted.iter().enumerate().all(|(i, &row)| row as usize == i));
        assert_eq!(order, shuffled(7, 3));
        assert_ne!(order, shuffled(7, 4));
        assert_ne!(order, shuffled(8, 3));
    }
}
