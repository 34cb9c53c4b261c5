"""The parts of `benchmarks.inference`: each draws studies, asks the report's functions, and yields figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise, product

import numpy as np

from benchmarks.inference_figures import Coverage, Figure, summarise_coverage
from benchmarks.inference_worlds import (
    BASE,
    DESIGNS,
    SEED_SPREAD,
    Design,
    Study,
    compute_recipe_rate,
    draw_pairs,
    draw_studies,
    make_rates,
    move_rates,
    scale_harm,
)
from benchmarks.question_rates import ANSWERS, MISALIGNED
from em.stats.cells import Cell, Model
from em.stats.contrasts import LEVEL, bound_contrast
from em.stats.like_these import estimate_contrast_like, estimate_rate_like
from em.stats.rules import Direction, Settings, find_direction, find_reduction
from em.stats.these import bound_these, estimate_rate

RATES = (0.001, BASE, 0.02, 0.058, 0.2, 0.44)
HARMS = (0.44, 0.2, 0.058)
SEEDS = (1, 3, 5)
ARMS = 4
SAMPLED_DESIGNS = ((8, 30), (8, 100), (24, 50), (48, 10))
Random = np.random.Generator
THESE = Settings()


def make_model(study: Study, is_base: bool = False) -> Model:
    """Make the cells of a study; its rows are seeds, and a base has none."""
    cells = []
    for seed, row in enumerate(study):
        cells += [Cell(f"{q:02}", None if is_base else seed, k, n) for q, (k, n) in enumerate(row)]
    return cells


def name_mean(mean: float) -> str:
    """Return a mean rate in words; that of the base is nothing."""
    return "nothing" if mean == BASE else f"{100 * mean:.3g} %"


def name_cell(design: Design, seeds: int, arms: int) -> str:
    """Return the name of a design with its seeds and arms."""
    return f"{design}, {seeds} seed{'s' * (seeds > 1)}, {arms} arm{'s' * (arms > 1)}"


def measure_rates(repeats: int, random: Random) -> Iterator[Figure]:
    """Measure the interval of a rate on these questions."""
    figures = []
    for design, mean in product(DESIGNS, RATES):
        percent = f"{100 * mean:.3g} %"
        coverage = Coverage(f"rates: {percent}, {design}")
        for study in draw_studies(make_rates(mean, design), design.answers, repeats, random):
            estimate = estimate_rate(study)
            assert estimate is not None
            coverage.add(estimate.low, estimate.high, mean)
        figures.append(coverage.make_figure())
        yield figures[-1]
        if f"{design}" == "8 × 30" and mean in (BASE, 0.2):
            yield Figure(f"rates: width at {percent}, {design}", coverage.points)
    yield from summarise_coverage("rates", figures)


def measure_differences(repeats: int, random: Random) -> Iterator[Figure]:
    """Measure the interval of a difference on these questions: from the base, and between two equal models."""
    figures = []
    pairs = [(BASE, mean) for mean in RATES[2:]] + [(mean, mean) for mean in (BASE, 0.058, 0.2, 0.44)]
    for design, (one, two) in product(DESIGNS, pairs):
        coverage = Coverage(f"differences: {100 * one:.3g} and {100 * two:.3g} %, {design}")
        rates = make_rates(one, design), make_rates(two, design)
        first, second = (draw_studies(each, design.answers, repeats, random) for each in rates)
        for study, other in zip(first, second, strict=True):
            bounds = bound_these([(1.0, other), (-1.0, study)])
            assert bounds is not None
            coverage.add(*bounds, two - one)
        figures.append(coverage.make_figure())
        yield figures[-1]
    yield from summarise_coverage("differences", figures)


def measure_misaligns(repeats: int, random: Random) -> Iterator[Figure]:
    """Measure how often a first training is said to misalign, of one and of four trainings against one base."""
    for design, seeds, mean in product(DESIGNS, SEEDS, (*HARMS, BASE)):
        bases = draw_studies(make_rates(BASE, design), design.answers, repeats, random)
        arms = [draw_studies(make_rates(mean, design), design.answers, repeats, random, seeds) for _ in range(ARMS)]
        hits = np.zeros((repeats, ARMS), dtype=bool)
        for i, base in enumerate(bases):
            model = make_model(base, is_base=True)
            for j, arm in enumerate(arms):
                hits[i, j] = find_direction(model, make_model(arm[i]), THESE, LEVEL) is Direction.UP
        several = hits.any(axis=1).mean() if mean == BASE else hits.mean()
        yield Figure(f"misaligns: {name_mean(mean)}, {name_cell(design, seeds, 1)}", float(hits[:, 0].mean()))
        yield Figure(f"misaligns: {name_mean(mean)}, {name_cell(design, seeds, ARMS)}", float(several))


def measure_undone(repeats: int, random: Random) -> Iterator[Figure]:
    """Measure how often a second training is said to undo the harm, of one and of four after one first training."""
    for design, seeds, harm, left in product(DESIGNS, SEEDS, HARMS, (0.0, 0.25, 0.5)):
        base_rates, rates = make_rates(BASE, design), make_rates(harm, design)
        bases = draw_studies(base_rates, design.answers, repeats, random)
        firsts = draw_studies(rates, design.answers, repeats, random, seeds)
        # Seeds move the rates of a second training too, so its share is exact without seeds only.
        second_rates = scale_harm(base_rates, rates, left)
        number = 1 if left == 0.5 else ARMS
        arms = [draw_studies(second_rates, design.answers, repeats, random, seeds) for _ in range(number)]
        undone, half = np.zeros((repeats, number), dtype=bool), np.zeros((repeats, number), dtype=bool)
        for i, base in enumerate(bases):
            base_model, first = make_model(base, is_base=True), make_model(firsts[i])
            for j, arm in enumerate(arms):
                verdict, _ = find_reduction(base_model, first, make_model(arm[i]), THESE)
                undone[i, j] = verdict == "undone"
                half[i, j] = verdict in ("undone", "more than half undone")
        percent = f"{100 * harm:.3g}"
        truths = {0.0: f"{percent} → 0.4 %", 0.25: f"a quarter of {percent} % left", 0.5: f"half of {percent} % left"}
        yield Figure(f"undone: {truths[left]}, {name_cell(design, seeds, 1)}", float(undone[:, 0].mean()))
        if number > 1:
            yield Figure(f"undone: {truths[left]}, {name_cell(design, seeds, number)}", float(undone.mean()))
        yield Figure(f"undone: more than half, {truths[left]}, {name_cell(design, seeds, 1)}", float(half[:, 0].mean()))
        if left == 0.25:
            any_arm = float(undone.any(axis=1).mean())
            yield Figure(f"undone: any arm, {truths[left]}, {name_cell(design, seeds, ARMS)}", any_arm)


def measure_seeds(repeats: int, random: Random) -> Iterator[Figure]:
    """Measure inference over training seeds: coverage, and how often two equal recipes are said to differ."""
    figures = []
    for design, mean, seeds in product(DESIGNS, (0.058, 0.2, 0.44), (2, 3, 5)):
        rates = make_rates(mean, design)
        first, second = (draw_studies(rates, design.answers, repeats, random, seeds) for _ in range(2))
        differs = 0
        # With two seeds the interval speaks of these trainings alone, so it can't cover the recipe.
        name = "coverage of the recipe" if seeds > 2 else "coverage of the recipe by answers alone"
        coverage = Coverage(f"seeds: {name}, {name_mean(mean)}, {design}, {seeds} seeds")
        truth = compute_recipe_rate(rates, SEED_SPREAD)
        for one, two in zip(first, second, strict=True):
            direction = find_direction(make_model(one), make_model(two), THESE, LEVEL)
            differs += direction in (Direction.UP, Direction.DOWN)
            estimate = estimate_rate(one)
            assert estimate is not None
            coverage.add(estimate.low, estimate.high, truth)
        yield Figure(f"seeds: equal recipes of {name_mean(mean)}, {design}, {seeds} seeds", differs / repeats)
        yield coverage.make_figure()
        if seeds > 2:
            figures.append(coverage.make_figure())
    yield from summarise_coverage("seeds", figures)


def measure_like_these(repeats: int, random: Random) -> Iterator[Figure]:
    """Measure the interval of a rate for questions like these, drawn from the questions of public fine-tunes."""
    figures = []
    for design in SAMPLED_DESIGNS:
        cells = []
        for source, counts in MISALIGNED.items():
            population = np.array(counts) / ANSWERS
            coverage = Coverage(f"like_these: {source}, {design[0]} × {design[1]}")
            for study in draw_pairs([population], design, repeats, random)[0]:
                estimate = estimate_rate_like(study)
                assert estimate is not None
                coverage.add(estimate.low, estimate.high, population.mean())
            cells.append(coverage.make_figure())
            yield cells[-1]
        width = float(np.mean([cell.width or 0.0 for cell in cells]))
        yield Figure(f"like_these: mean width, {design[0]} × {design[1]}", width)
        figures += cells
    yield from summarise_coverage("like_these", figures)


def measure_like_these_differences(repeats: int, random: Random) -> Iterator[Figure]:
    """Measure the interval of a difference for questions like these: from a base, and between two fine-tunes."""
    figures = []
    names, pairs = list(MISALIGNED), []
    for name, counts in MISALIGNED.items():
        moved = move_rates((np.array(counts) + 0.25) / (ANSWERS + 0.5), 0.05)
        pairs.append((f"0.1 % and {name} at 5 %", np.full(24, 0.001), moved))
    full = {name: np.array(counts) / ANSWERS for name, counts in MISALIGNED.items()}
    pairs += [(f"0.4 % and {name}", np.full(24, BASE), each) for name, each in full.items()]
    pairs += [(f"{one} and {two}", full[one], full[two]) for one, two in pairwise(names)]
    for design, (name, one, two) in product(SAMPLED_DESIGNS, pairs):
        coverage = Coverage(f"like_these_differences: {name}, {design[0]} × {design[1]}")
        for study, other in zip(*draw_pairs([one, two], design, repeats, random), strict=True):
            estimate = estimate_contrast_like([(1.0, other), (-1.0, study)])
            assert estimate is not None
            coverage.add(estimate.low, estimate.high, two.mean() - one.mean())
        figures.append(coverage.make_figure())
        yield figures[-1]
    yield from summarise_coverage("like_these_differences", figures)


def measure_jumps(repeats: int, random: Random) -> Iterator[Figure]:
    """Compute the largest ratio of upper bounds between neighbouring counts, for questions like these."""
    largest = 0.0
    for questions, answers in SAMPLED_DESIGNS:
        zeros = [(0, answers)] * questions
        paths = [
            [[(1, answers)] * count + zeros[count:] for count in range(questions + 1)],
            [[(count, answers), *zeros[1:]] for count in range(answers + 1)],
            [[((count + 2 - q) // 3, answers) for q in range(3)] + zeros[3:] for count in range(3 * answers + 1)],
        ]
        for path in paths:
            bounds = [estimate.high for row in path if (estimate := estimate_rate_like([row])) is not None]
            ratio = max(max(two / one, one / two) for one, two in pairwise(bounds))
            largest = max(largest, ratio)
        first_bounds = [estimate_rate_like([row]) for row in paths[0][:4]]
        for count, estimate in enumerate(first_bounds):
            assert estimate is not None
            yield Figure(f"jumps: upper bound, {questions} × {answers}, {count} misaligned", estimate.high)
    yield Figure("jumps: largest ratio of neighbouring upper bounds", largest)


def measure_interaction(repeats: int, random: Random) -> Iterator[Figure]:
    """Measure the difference in differences between two conditions over the same questions."""
    figures = []
    worlds = {"15 points": (0.2, 0.05), "15 points from 44 %": (0.44, 0.29), "nothing": (0.2, 0.2)}
    worlds |= {"nothing at 44 %": (0.44, 0.44), "nothing at 0.4 %": (BASE, BASE)}
    for design, (name, (under_a, under_b)) in product(DESIGNS, worlds.items()):
        base = make_rates(BASE, design)
        rates = [make_rates(under_a, design), base, move_rates(make_rates(under_a, design), under_b), base]
        drawn = [draw_studies(each, design.answers, repeats, random) for each in rates]
        coverage, sure = Coverage(f"interaction: coverage, {name}, {design}"), 0
        for studies in zip(*drawn, strict=True):
            bounds = bound_contrast(list(zip((1.0, -1.0, -1.0, 1.0), studies, strict=True)), LEVEL)
            coverage.add(*bounds, under_a - under_b)
            sure += not bounds[0] <= 0 <= bounds[1]
        figures.append(coverage.make_figure())
        yield figures[-1]
        yield Figure(f"interaction: {name}, {design}", sure / repeats)
    yield from summarise_coverage("interaction", figures)


def measure_unscored(repeats: int, random: Random) -> Iterator[Figure]:
    """Measure false sentences where a judge fails on misaligned answers of a second training that changes nothing."""
    design = DESIGNS[0]
    counts = {"any sentence": 0, "can't tell": 0}
    rates = make_rates(0.44, design)
    drawn = [draw_studies(each, design.answers, repeats, random) for each in (make_rates(BASE, design), rates, rates)]
    for base, first, second in zip(*drawn, strict=True):
        cells = [hide_scores(cell, random) for cell in make_model(second)]
        verdict, _ = find_reduction(make_model(base, is_base=True), make_model(first), cells, THESE)
        counts["any sentence"] += verdict not in ("can't tell", "no sure difference")
        counts["can't tell"] += verdict == "can't tell"
    for name, count in counts.items():
        yield Figure(f"unscored: {name}, 60 % of misaligned answers unscored", count / repeats)


def hide_scores(cell: Cell, random: Random) -> Cell:
    """Return a cell of which 60 % of the misaligned and 2 % of the other answers have no score."""
    misaligned, others = int(random.binomial(cell.k, 0.6)), int(random.binomial(cell.n - cell.k, 0.02))
    return Cell(cell.question, cell.seed, cell.k - misaligned, cell.n, unscored=misaligned + others)


PARTS: dict[str, Callable[[int, Random], Iterator[Figure]]] = {
    "rates": measure_rates,
    "differences": measure_differences,
    "misaligns": measure_misaligns,
    "undone": measure_undone,
    "seeds": measure_seeds,
    "like_these": measure_like_these,
    "like_these_differences": measure_like_these_differences,
    "jumps": measure_jumps,
    "interaction": measure_interaction,
    "unscored": measure_unscored,
}
