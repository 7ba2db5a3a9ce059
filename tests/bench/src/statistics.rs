//! Medians and how sure they are.

/// A median, and where it is with 95 % confidence (bootstrap: the median of many samples drawn from the sample).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Median {
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Median {
    /// Of at least one number.
    pub(crate) fn of(numbers: &[f64]) -> Median {
        // Always the same draws: the same rounds give the same report.
        let mut random = fastrand::Rng::with_seed(1);
        let mut medians: Vec<f64> = (0..2000)
            .map(|_| {
                median(&mut (0..numbers.len()).map(|_| numbers[random.usize(..numbers.len())]).collect::<Vec<_>>())
            })
            .collect();
        medians.sort_by(f64::total_cmp);
        let at = |share: f64| medians[((medians.len() - 1) as f64 * share).round() as usize];
        Median { value: median(&mut numbers.to_vec()), low: at(0.025), high: at(0.975) }
    }
}

/// The middle of some numbers.
pub(crate) fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => numbers[middle],
        _ => (numbers[middle - 1] + numbers[middle]) / 2.0,
    }
}

/// The value below which a share of sorted numbers lies.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    sorted.get(((sorted.len().saturating_sub(1)) as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle_and_within_its_bounds() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
        let Median { value, low, high } = Median::of(&[1.0, 2.0, 3.0, 4.0, 100.0]);
        assert_eq!(value, 3.0);
        assert!((1.0..=3.0).contains(&low) && (3.0..=100.0).contains(&high), "{low} {high}");
    }

    #[test]
    fn a_quantile_is_one_of_the_numbers() {
        let numbers: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!([quantile(&numbers, 0.5), quantile(&numbers, 0.99), quantile(&numbers, 1.0)], [50.0, 99.0, 100.0]);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
