"""The language of a text: by its letters, and by its smallest words."""

from unicodedata import normalize

import pytest

from templora_memory.domain.languages import language_of

TEXTS = {
    "en": "Ada keeps bees on the roof of the observatory.",
    "de": "Ada hält Bienen auf dem Dach der Sternwarte.",
    "fr": "Ada élève des abeilles sur le toit de l'observatoire.",
    "es": "Ada cría abejas en el tejado del observatorio.",
    "pt": "Ela cria abelhas no telhado e não gosta da chuva.",
    "it": "Ada alleva le api sul tetto della torre e le ama molto.",
    "nl": "Ada houdt bijen op het dak van de sterrenwacht.",
    "sv": "Ada har bin på taket och tycker om dem.",
    "pl": "Ada hoduje pszczoły na dachu i bardzo je lubi.",
    "tr": "Ada çatıda arı besler ve onları çok sever.",
    "ru": "Ада держит пчёл на крыше обсерватории.",
    "uk": "Ада тримає бджіл на даху обсерваторії.",
    "el": "Η Άντα έχει μέλισσες στη στέγη.",
    "he": "עדה מגדלת דבורים על הגג.",
    "ar": "تربي آدا النحل على سطح المرصد.",
    "ur": "آدا چھت پر شہد کی مکھیاں پالتی ہے۔",
    "hi": "आदा छत पर मधुमक्खियाँ पालती है।",
    "th": "อาดาเลี้ยงผึ้งบนหลังคา",
    "zh": "艾达在天文台的屋顶上养蜜蜂。",
    "ja": "アダは天文台の屋根で蜜蜂を飼っている。",
    "ko": "아다는 천문대 지붕에서 꿀벌을 키운다.",
}


@pytest.mark.parametrize("language", TEXTS)
def test_a_sentence_has_its_language(language):
    assert language_of(TEXTS[language]) == language


@pytest.mark.parametrize("language", TEXTS)
def test_the_language_is_the_same_however_the_text_is_coded(language):
    assert language_of(normalize("NFD", TEXTS[language])) == language


def test_japanese_with_few_kana_is_not_chinese():
    assert language_of("東京都立図書館の開館時間案内") == "ja"


def test_a_foreign_name_does_not_change_the_language():
    assert language_of("她的名字叫 Ada Lovelace，住在宁波。") == "zh"


@pytest.mark.parametrize("text", ["Ben lives in Oak Hill.", "Ben rows a boat.", "Mia sails."])
def test_a_name_that_is_a_word_elsewhere_decides_nothing(text):
    assert language_of(text) == "en"


@pytest.mark.parametrize("text", ["", "12 + 30", "Ada Quill", "🐝"])
def test_what_says_nothing_has_the_default(text):
    assert language_of(text) == "en"
    assert language_of(text, "de") == "de"


def test_a_text_is_judged_by_its_beginning_only():
    assert language_of("Ada keeps bees on the roof. " * 200 + TEXTS["zh"] * 1000) == "en"
