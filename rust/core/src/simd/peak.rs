//! The rate of multiply-adds that the machine can reach: what benches measure against.

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use super::bf16::Arithmetic;
use crate::element::Element;
use crate::simd::vector_kernel;

/// Rounds of one burst: about a millisecond.
const ROUNDS: usize = 1 << 17;

vector_kernel! {
    /// 16 independent chains (8 would do on processors with a latency of 4 and two units); the loop touches no memory.
    fn burst[F: Element, A: Arithmetic](flops: &mut f64, sum: &mut [F])[] {
        // SAFETY: compiled for the instruction set; `sum` has room for a vector.
        unsafe {
            assert!(sum.len() >= V::LANES);
            let (a, b) = (V::splat(&F::of(0.5)), V::load(sum.as_ptr()));
            let mut chains = [a; 16];
            for _ in 0..ROUNDS {
                for chain in &mut chains {
                    *chain = a.fma(b, *chain);
                }
            }
            for chain in chains {
                chain.store(sum.as_mut_ptr());
                black_box(&*sum);
            }
        }
        *flops += (2 * 16 * ROUNDS * V::LANES) as f64;
    }
}

/// Operations per second, in one arithmetic, of `threads` threads that do nothing but fused
/// multiply-adds for so long.
pub fn fma_peak<F: Element, A: Arithmetic<F>>(threads: usize, time: Duration) -> f64 {
    let rate = || {
        let mut flops = 0.0;
        let mut sum = [F::HALF; 16];
        burst::<F, A>(&mut flops, &mut sum);
        (flops, sum) = (0.0, [F::HALF; 16]);
        let begun = Instant::now();
        while begun.elapsed() < time {
            burst::<F, A>(&mut flops, &mut sum);
        }
        A::PRODUCTS as f64 * flops / begun.elapsed().as_secs_f64()
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(rate)).collect();
        rate()
            + others
                .into_iter()
                .filter_map(|t| t.join().ok())
                .sum::<f64>()
    })
}
