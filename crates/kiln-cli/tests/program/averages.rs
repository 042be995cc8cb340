//! `kiln model average`: the length of the average of the weights, chosen after a training.

use crate::training;

#[test]
fn an_average_that_was_not_kept_is_made_or_refused() {
    let workplace = training::workplace();
    training::train(&workplace, "train-vqvae --out run");
    let keep = "--set stage_2.power_averages=[0.05,0.10]";
    training::train(
        &workplace,
        &format!("train-latent-diffusion --out run {keep}"),
    );
    let outcome = workplace.json("model average run --length 0.07 --to averaged --json");
    assert_eq!(
        (&outcome["length"], &outcome["steps"]),
        (&0.07.into(), &"4".into())
    );
    let info = workplace.json("model info averaged --json");
    assert!(
        info.to_string().contains(r#""average_length":"0.07""#),
        "{info}"
    );
    assert_ne!(
        workplace.draw("--model averaged --out one"),
        workplace.draw("--model run --out two")
    );
    for (arguments, words) in [
        (
            "run --length 0.01",
            "choose a length nearer to 0.05 and 0.1",
        ),
        (
            "run --length 0.1 --after 3",
            "a step of which averages were kept",
        ),
        ("run/model --length 0.1", "keeps no averages"),
        ("nowhere --length 0.1", "there is no run folder nowhere"),
    ] {
        let sentence = workplace.fail(&format!("model average {arguments} --to refused"));
        assert!(sentence.contains(words), "{sentence}");
    }
    assert!(!workplace.path("refused").exists());
}
