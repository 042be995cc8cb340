//! A number of things in words.

/// `1 step`, `20 steps`; `1 class`, `3 classes`.
pub fn counted(count: usize, thing: &str) -> String {
    let ending = match (count, thing.ends_with('s')) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{count} {thing}{ending}")
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn only_one_thing_is_in_the_singular() {
        let steps = [0, 1, 2].map(|count| counted(count, "step"));
        assert_eq!(steps, ["0 steps", "1 step", "2 steps"]);
        let classes = [1, 11].map(|count| counted(count, "class"));
        assert_eq!(classes, ["1 class", "11 classes"]);
        assert_eq!(counted(3, "pass"), "3 passes");
    }
}
