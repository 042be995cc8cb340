//! k-means on the host: the start of a codebook.

use rayon::prelude::*;

use super::statistics::mix;

/// Vectors per task. Fixed, so that the order of the sums, and so the result, does not depend on the number of threads.
const CHUNK: usize = 1024;

/// The centres, `codes * dimension` numbers, of vectors given as `N * dimension` numbers: k-means++ (Arthur
/// and Vassilvitskii 2007) followed by `iterations` of Lloyd's algorithm.
///
/// The same input gives the same centres, whatever the number of threads. A centre that loses all its vectors
/// moves to the vector that is farthest from its own centre. With fewer distinct vectors than codes some
/// centres coincide; without any vector all are zero.
///
/// `advance` is told the work that is done, of `codes * (1 + iterations)` in total. If it returns false, the work
/// stops, and the centres are meaningless.
pub fn kmeans(
    vectors: &[f32],
    dimension: usize,
    codes: usize,
    iterations: usize,
    seed: u64,
    advance: &mut dyn FnMut(u64) -> bool,
) -> Vec<f32> {
    if dimension == 0 || codes == 0 || vectors.len() < dimension {
        return vec![0.0; codes * dimension];
    }
    let vectors = &vectors[..vectors.len() - vectors.len() % dimension];
    let Some(mut centres) = seeded(vectors, dimension, codes, seed, advance) else {
        return vec![0.0; codes * dimension];
    };
    for _ in 0..iterations {
        let nearest = assign(vectors, dimension, &centres);
        let (sums, counts) = sums_by_centre(vectors, dimension, codes, &nearest);
        let mut farthest = farthest_first(&nearest, counts.contains(&0));
        for (code, centre) in centres.chunks_exact_mut(dimension).enumerate() {
            if counts[code] > 0 {
                let sum = &sums[code * dimension..][..dimension];
                for (value, sum) in centre.iter_mut().zip(sum) {
                    *value = (sum / counts[code] as f64) as f32;
                }
            } else if let Some(index) = farthest.next() {
                centre.copy_from_slice(&vectors[index * dimension..][..dimension]);
            }
        }
        if !advance(codes as u64) {
            break;
        }
    }
    centres
}

/// k-means++: each next centre is a vector drawn with probability proportional to its squared distance to the centres
/// chosen so far. `None` once `advance` returns false.
fn seeded(
    vectors: &[f32],
    dimension: usize,
    codes: usize,
    seed: u64,
    advance: &mut dyn FnMut(u64) -> bool,
) -> Option<Vec<f32>> {
    let count = vectors.len() / dimension;
    let vector = |index: usize| &vectors[index * dimension..][..dimension];
    let mut centres = Vec::with_capacity(codes * dimension);
    let mut distances = vec![f32::INFINITY; count];
    for code in 0..codes {
        let draw = mix(seed, 0, code as u64);
        let total: f64 = distances.iter().map(|&distance| f64::from(distance)).sum();
        let chosen = if total.is_finite() && total > 0.0 {
            // 53 random bits make a number in [0, 1).
            let target = (draw >> 11) as f64 / (1_u64 << 53) as f64 * total;
            let mut passed = 0.0;
            distances
                .iter()
                .position(|&distance| {
                    passed += f64::from(distance);
                    passed > target
                })
                .unwrap_or(count - 1)
        } else {
            // The first centre, or every vector is a centre already.
            (draw % count as u64) as usize
        };
        let centre = vector(chosen);
        distances
            .par_chunks_mut(CHUNK)
            .zip(vectors.par_chunks(CHUNK * dimension))
            .for_each(|(distances, vectors)| {
                for (distance, vector) in distances.iter_mut().zip(vectors.chunks(dimension)) {
                    *distance = distance.min(squared_distance(vector, centre));
                }
            });
        centres.extend_from_slice(centre);
        if !advance(1) {
            return None;
        }
    }
    Some(centres)
}

/// For each vector the index of its nearest centre and the squared distance to it.
fn assign(vectors: &[f32], dimension: usize, centres: &[f32]) -> Vec<(usize, f32)> {
    vectors
        .par_chunks(dimension)
        .with_min_len(CHUNK)
        .map(|vector| {
            centres
                .chunks(dimension)
                .map(|centre| squared_distance(vector, centre))
                .enumerate()
                .fold((0, f32::INFINITY), |best, (code, distance)| {
                    if distance < best.1 {
                        (code, distance)
                    } else {
                        best
                    }
                })
        })
        .collect()
}

/// Sum and number of the vectors of each centre.
fn sums_by_centre(
    vectors: &[f32],
    dimension: usize,
    codes: usize,
    nearest: &[(usize, f32)],
) -> (Vec<f64>, Vec<usize>) {
    let mut sums = vec![0.0; codes * dimension];
    let mut counts = vec![0; codes];
    for (vector, &(code, _)) in vectors.chunks(dimension).zip(nearest) {
        counts[code] += 1;
        for (sum, value) in sums[code * dimension..].iter_mut().zip(vector) {
            *sum += f64::from(*value);
        }
    }
    (sums, counts)
}

/// Indices of the vectors, the farthest from its centre first; empty unless `needed`.
fn farthest_first(nearest: &[(usize, f32)], needed: bool) -> impl Iterator<Item = usize> + use<> {
    let mut order: Vec<usize> = if needed {
        (0..nearest.len()).collect()
    } else {
        Vec::new()
    };
    order.sort_by(|&a, &b| nearest[b].1.total_cmp(&nearest[a].1).then(a.cmp(&b)));
    order.into_iter()
}

fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kmeans(
        vectors: &[f32],
        dimension: usize,
        codes: usize,
        iterations: usize,
        seed: u64,
    ) -> Vec<f32> {
        let mut done = 0;
        let advance = &mut |work| {
            done += work;
            true
        };
        let centres = super::kmeans(vectors, dimension, codes, iterations, seed, advance);
        let work = (codes * (1 + iterations)) as u64;
        assert_eq!(done, if vectors.is_empty() { 0 } else { work });
        centres
    }

    /// Four tight groups of 50 vectors around the corners of a square.
    fn four_groups() -> Vec<f32> {
        (0..200_u64)
            .flat_map(|index| {
                let jitter = |axis| (mix(7, index, axis) % 1000) as f32 / 10_000.0 - 0.05;
                let corner = index % 4;
                [
                    (corner % 2) as f32 * 10.0 + jitter(0),
                    (corner / 2) as f32 * 10.0 + jitter(1),
                ]
            })
            .collect()
    }

    #[test]
    fn finds_separated_groups() {
        for seed in 0..8 {
            let mut centres: Vec<[i32; 2]> = kmeans(&four_groups(), 2, 4, 5, seed)
                .chunks(2)
                .map(|centre| [centre[0].round() as i32, centre[1].round() as i32])
                .collect();
            centres.sort_unstable();
            assert_eq!(centres, [[0, 0], [0, 10], [10, 0], [10, 10]], "seed {seed}");
        }
    }

    #[test]
    fn centres_are_means() {
        let centres = kmeans(&[0.0, 1.0, 2.0, 100.0, 102.0], 1, 2, 10, 3);
        let mut sorted = centres.clone();
        sorted.sort_by(f32::total_cmp);
        assert_eq!(sorted, [1.0, 101.0]);
    }

    #[test]
    fn is_a_function_of_its_input_and_not_of_the_threads() {
        let vectors: Vec<f32> = (0..6000).map(|i| (mix(1, 2, i) % 997) as f32).collect();
        let run = |threads: usize| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .expect("a thread pool")
                .install(|| kmeans(&vectors, 3, 16, 4, 9))
        };
        assert_eq!(run(1), run(3));
        assert_ne!(run(1), kmeans(&vectors, 3, 16, 4, 10));
    }

    #[test]
    fn more_codes_than_vectors_keeps_every_vector() {
        let centres = kmeans(&[1.0, 5.0], 1, 6, 3, 0);
        assert_eq!(centres.len(), 6);
        assert!(centres.contains(&1.0) && centres.contains(&5.0));
        assert!(centres.iter().all(|&centre| centre == 1.0 || centre == 5.0));
    }

    #[test]
    fn no_vectors_and_identical_vectors() {
        assert_eq!(kmeans(&[], 2, 3, 5, 0), [0.0; 6]);
        assert_eq!(kmeans(&[4.0; 10], 1, 3, 5, 0), [4.0; 3]);
    }
}
