"""A second statement of the official SQuAD rules, which shares no code with ours."""

from collections.abc import Mapping

ASCII_MARKS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"


def words(text):
    """The words that count, found without regular expressions: an article is a whole run of word characters."""
    kept = "".join(letter for letter in text.lower() if letter not in ASCII_MARKS)
    pieces, run = [], ""
    for letter in kept + " ":
        if letter.isalnum() or letter == "_":
            run += letter
            continue
        pieces += [" " if run in ("a", "an", "the") else run, letter]
        run = ""
    return "".join(pieces).split()


def overlap_f1(gold, answer, empty):
    """Words are struck off one by one; `empty` is the F1 of two answers without words."""
    if not gold and not answer:
        return empty
    left, shared = list(gold), 0
    for word in answer:
        if word in left:
            left.remove(word)
            shared += 1
    return 2 * shared / (len(gold) + len(answer))


def oracle(golds: Mapping[str, list[str]], predictions, v2):
    """(exact match, F1) in percent."""
    exact, f1 = [], []
    for key, texts in golds.items():
        wanted = [words(text) for text in texts]
        if v2:
            wanted = [one for one in wanted if one] or [[]]
        answer = words(predictions[key])
        exact.append(answer in wanted)
        f1.append(max(overlap_f1(one, answer, float(v2)) for one in wanted))
    return 100 * sum(exact) / len(golds), 100 * sum(f1) / len(golds)
