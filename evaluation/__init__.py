"""The testbed: does a method compose better than another, and by how much?

    testbeds.py, composlora.py   what there is to compose: elements, sets, prompts, adapter files
    plan.py, planned.py          a plan in TOML, checked -> the pictures to paint, each a Job
    policies/                    ways to compose, and how they patch a model
    methods.py                   a policy with the parameters that a plan gives it
    jobs.py                      the values that all of these share
    runner.py, painting.py, cluster.py   paint what is missing, in this process or on many machines
    store.py                     what was found: one SQLite file, pictures beside it
    judges/                      oracle, CLIP, a vision-language model: scores of pictures
    ratings.py                   ratings by people, in the published layout
    rating/                      a local page on which people compare pictures
    statistics.py, correlations.py   bootstrap intervals, wins, agreement with people; pure numpy and scipy
    reading.py, versus.py        what the store has about a plan, as arrays: methods x cases
    findings.py, measures.py     means, differences, recall and cost of a plan; what measures are called
    sections.py, tables.py, plots.py, drawing.py, sheets.py   what a report is made of
    contents.py, report.py       one HTML page, templates/ beside it
    correlate.py                 judges against people
    cli.py                       `python -m mixlora.evaluation`: run, judge, report, rate, ...
    chain.py, check.py           `make testbed`: one after the other; is everything there?
    tuning_cases.py, tuning.py   strengths by search, on scenes that no plan judges
    experiments.py, goals.py, evidence.py   the tables of docs/evidence.md, and numbers with their goals
    contact.py                   the same sets by some methods on one picture
    exchange.py                  scores to a small file, and from one
    plans/                       the plans of the experiments

Imports run from the bottom up: nothing above imports what stands below it.
"""
