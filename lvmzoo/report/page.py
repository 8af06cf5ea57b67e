"""The report of a run: one HTML page that needs nothing but itself."""

from __future__ import annotations

import functools
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvmzoo.checkpoint import write_bytes
from lvmzoo.models.base import (
    Attributes,
    Communicates,
    Connects,
    Decodes,
    Forecasts,
    ForecastsBehavior,
    GradientModel,
    HasDynamics,
    Reconstructs,
)
from lvmzoo.report import text
from lvmzoo.report.style import Picture, Statements, Table

if TYPE_CHECKING:
    from lvmzoo.data.trials import Session
    from lvmzoo.metrics.base import Evaluation, Score
    from lvmzoo.report.view import View
    from lvmzoo.run import Run

__all__ = ["Section", "write_page", "write_report"]

logger = logging.getLogger(__name__)

_MOST_SESSIONS = 3  # a data set of many sessions shows the first few in figures, and all of them in the table

Item = Picture | Statements | Table | str


@dataclass
class Section:
    """A part of the page: words, figures, tables, and notes on what could not be drawn."""

    id: str
    title: str
    lead: str = ""
    legend: tuple[str, list[tuple[str, str]]] | None = None  # a trial column, and its levels with their colors
    pictures: list[Picture] = field(default_factory=list)
    statements: list[Statements] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.pictures or self.statements or self.tables or self.failures or self.lead)

    def draw(self, figures: Callable[[], Iterator[Item]]) -> Section:
        """Add figures, tables and words; one that fails leaves a note, and the rest of the report stands."""
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Mean of empty slice|Degrees of freedom", module="numpy")
                for item in figures():
                    if isinstance(item, str):
                        self.lead = item
                    elif isinstance(item, Table):
                        self.tables.append(item)
                    elif isinstance(item, Statements):
                        self.statements.append(item)
                    else:
                        self.pictures.append(item)
        except Exception as error:
            logger.warning("the report's section '%s' could not be drawn", self.title, exc_info=True)
            self.failures.append(f"This part could not be drawn ({type(error).__name__}: {error}).")
        return self


@dataclass
class SessionPage:
    """All that the page shows of one session."""

    id: str
    name: str
    facts: dict[str, str]
    notes: list[str]
    sections: list[Section]


def write_report(run: Run, path: Path, evaluations: Sequence[Evaluation] | None = None) -> None:
    """Write the report of a run as one self-contained HTML file.

    Parameters
    ----------
    run : a fitted model; figures of the data need its sessions, which a run that was loaded does not have.
    path : where the file goes; it is replaced in one step.
    evaluations : of the run's sessions, where there are some already: their latents need not be inferred again.
    """
    from lvmzoo.metrics.base import Evaluation

    if evaluations is None:
        evaluations = [Evaluation(run.model, session, run.experiment.seed) for session in run.sessions or []]
    write_page(Path(path), "page.html", _content(run, evaluations))


def write_page(path: Path, template: str, content: Mapping[str, Any]) -> None:
    """Write one of the templates of this folder, filled: what is put in is escaped, what is missing an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_bytes(path, environment.get_template(template).render(content).encode())


def _content(run: Run, evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    from lvmzoo.report.curves import learning_curves
    from lvmzoo.report.view import used_behavior

    sessions = [evaluation.session for evaluation in evaluations]
    curve = Section("learning", "Learning curve").draw(lambda: learning_curves(run))
    if not curve.pictures and not curve.failures:
        last = run.history.iloc[-1] if len(run.history) else None
        if isinstance(run.model, GradientModel) and last is not None:
            curve.lead = (
                f"Training ended after {int(last['step'])} steps and was looked at once: there is no curve to show. "
                "Train longer, or look more often with trainer.validate_every_steps."
            )
        else:
            curve.lead = f"{run.entry.name} is solved in closed form: there is no curve to show."
    pages = [_session(run, evaluation, number) for number, evaluation in enumerate(evaluations[:_MOST_SESSIONS])]
    pages = pages or [_saved(run, name, number) for number, name in enumerate([*run.findings][:_MOST_SESSIONS])]
    names = list(dict.fromkeys(score.session for score in run.scores))
    reference = run.entry.reference
    return {
        "title": f"{run.entry.name} · {_name(sessions)}",
        "model": run.entry.name,
        "about": run.entry.summary,
        "data": _name(sessions),
        "summary": text.summary(run),
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "reference": reference,
        "highlights": text.highlights(_of(run.scores, names[0]), used_behavior(run)) if names else [],
        "tables": [(name, text.rows(_of(run.scores, name))) for name in names],
        "whole": [section for section in (curve,) if not section.empty],
        "sessions": pages,
        "hidden_sessions": [session.layout.session for session in sessions[_MOST_SESSIONS:]],
        "config": text.config_text({"experiment": run.experiment})[len("experiment:\n") :],
        "facts": list(text.plain_facts(run.facts)),
        "versions": dict(run.facts.get("versions", {})),
        "folder": str(run.folder) if run.folder else "",
    }


def _name(sessions: list[Session]) -> str:
    if not sessions:
        return "a saved run"
    return sessions[0].layout.session if len(sessions) == 1 else f"{len(sessions)} sessions"


def _of(scores: list[Score], session: str) -> list[Score]:
    return [score for score in scores if score.session == session]


def _session(run: Run, evaluation: Evaluation, number: int) -> SessionPage:
    from lvmzoo.report.attribution import attribution_figures
    from lvmzoo.report.decoding import communication_figures, decoding_figures
    from lvmzoo.report.drift import drift_figures
    from lvmzoo.report.dynamics import dynamics_figures
    from lvmzoo.report.forecasts import forecast_figures
    from lvmzoo.report.latents import latent_figures
    from lvmzoo.report.rates import rate_figures
    from lvmzoo.report.relevance import PrefersBehavior, relevance_figures
    from lvmzoo.report.rotation import rotation_figures
    from lvmzoo.report.view import View

    session = evaluation.session
    view = View(run, session, evaluation)
    tested = len(view.evaluation.bins("test")) > 0
    decodes, legend = tested and (bool(run.decoders) or isinstance(run.model, Decodes)), view.legend
    reconstructs, communicates, moves, foresees, prefers = (
        tested and isinstance(run.model, can)
        for can in (Reconstructs, Communicates, HasDynamics, Forecasts | ForecastsBehavior, PrefersBehavior)
    )
    attributes = isinstance(run.model, Attributes) and run.model.attributes_reliably and bool(session.layout.behavior)
    sections: list[tuple[bool, Section, Callable[[View], Iterator[Item]]]] = [
        (tested, Section(f"latents-{number}", "Latents", legend=legend), latent_figures),
        (moves, Section(f"dynamics-{number}", "Dynamics", legend=legend), dynamics_figures),
        (prefers, Section(f"relevance-{number}", "What behavior shares"), relevance_figures),
        (tested, Section(f"rotation-{number}", "Rotation", legend=view.key), rotation_figures),
        (reconstructs, Section(f"rates-{number}", "Predicted rates against data", legend=legend), rate_figures),
        (communicates, Section(f"communication-{number}", "Prediction between regions"), communication_figures),
        (decodes, Section(f"decoding-{number}", "Decoding"), decoding_figures),
        (attributes, Section(f"attribution-{number}", "Which units carry it"), attribution_figures),
        (foresees, Section(f"forecasts-{number}", "Forecasts"), forecast_figures),
        (True, Section(f"drift-{number}", "Drift over the session"), drift_figures),
    ]
    drawn = [section.draw(functools.partial(figures, view)) for possible, section, figures in sections if possible]
    if isinstance(run.model, Connects):
        drawn = [*_regions(run, session.layout.session, number, evaluation), *drawn]
    return SessionPage(
        id=f"session-{number}",
        name=session.layout.session,
        facts=text.session_facts(session, run.experiment),
        notes=text.session_notes(session, run.experiment),
        sections=[section for section in drawn if not section.empty],
    )


def _regions(run: Run, session: str, number: int, evaluation: Evaluation | None = None) -> list[Section]:
    """Return what the model says of the regions of a session, and the curves behind it."""
    from lvmzoo.findings import Findings
    from lvmzoo.report.connections import connection_figures
    from lvmzoo.report.profiles import profile_figures

    def found() -> Findings:
        if session in run.findings or evaluation is None:
            return run.findings[session]
        return evaluation.findings()

    units = run.model.layouts[session].units
    residuals = bool(getattr(run.experiment.model, "residuals", False))
    sections = [
        Section(f"regions-{number}", "Regions").draw(lambda: connection_figures(units, found(), residuals)),
        Section(f"profiles-{number}", "Regions: curves and maps").draw(lambda: profile_figures(found())),
    ]
    return [section for section in sections if not section.empty]


def _saved(run: Run, session: str, number: int) -> SessionPage:
    """Return the page of a session of which there are findings and no data."""
    return SessionPage(f"session-{number}", session, {}, [], _regions(run, session, number))
