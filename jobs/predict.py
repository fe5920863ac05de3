"""Read the emotions in new posts with a trained model.

python jobs/predict.py --model runs/one/model --data posts.jsonl --output predictions/
"""

from emo.session import prepare_environment

prepare_environment()  # before the imports of the libraries that read it

from emo.bundle import load_bundle
from emo.cli import run_job
from emo.config import PredictConfig
from emo.console import say
from emo.pipeline import posts_to_predict
from emo.plan import show_evaluation, show_predictions
from emo.predict import judge, predict
from emo.run import claim, output_folder


def main(config: PredictConfig) -> None:
    """Write probabilities and labels of posts as Parquet."""
    folder = output_folder(config.output, "predictions")
    claim(folder)
    bundle = load_bundle(config.model, trust_remote_code=config.trust_remote_code)
    posts = posts_to_predict(config, bundle)
    manifest = predict(posts.folder, posts.manifest, config.model, bundle, folder, posts.text.captions)
    show_predictions(folder, manifest)
    if posts.manifest["labels"]:
        show_evaluation(judge(posts.folder, posts.manifest, bundle, folder))
        say(f"\nEvaluation: {folder}/evaluation.html")


if __name__ == "__main__":
    run_job(PredictConfig, main)
