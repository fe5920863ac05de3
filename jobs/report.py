"""Write the report of a run again, finished or not.

python jobs/report.py --run runs/one
"""

from emo.session import prepare_environment

prepare_environment()  # before the imports of the libraries that read it

from emo.cli import run_job
from emo.config import ReportConfig
from emo.console import say
from emo.crossval import is_cross_validation
from emo.crossval_page import write_page
from emo.report import write_report
from emo.run import existing_run


def main(config: ReportConfig) -> None:
    """Write figures and report.html from what a run's folder holds so far."""
    run = existing_run(config.run)
    say(f"Report: {write_page(run) if is_cross_validation(run) else write_report(run)}")


if __name__ == "__main__":
    run_job(ReportConfig, main, needs_ray=False)
