"""Names and codes of languages, and those that the model knows."""

from __future__ import annotations

import re

UNKNOWN_LANGUAGE = "unknown"

# ISO 639-1, 639-3 (also the bibliographic code where it differs), English names (those of Whisper, too), own names.
_NAMES = """
af afr afrikaans; am amh amharic; ar ara arabic العربية; as asm assamese; az aze azerbaijani azərbaycanca; ba bak
bashkir; be bel belarusian беларуская; bg bul bulgarian български; bn ben bengali bangla বাংলা; bo bod tibetan; br bre
breton; bs bos bosnian bosanski; ca cat catalan valencian català; cs ces cze czech čeština; cy cym wel welsh cymraeg;
da dan danish dansk; de deu ger german deutsch; el ell gre greek ελληνικά; en eng english; es spa spanish castilian
español espanol castellano; et est estonian eesti; eu eus baq basque euskara; fa fas per persian farsi فارسی; fi fin
finnish suomi; fo fao faroese; fr fra fre french français francais; ga gle irish gaeilge; gl glg galician galego; gu
guj gujarati; ha hau hausa; haw hawaiian; he heb iw hebrew עברית; hi hin hindi हिन्दी; hr hrv croatian hrvatski; ht
hat haitian; hu hun hungarian magyar; hy hye arm armenian; id ind indonesian indonesia; is isl ice icelandic íslenska;
it ita italian italiano; ja jpn jp japanese 日本語; jw jav jv javanese; ka kat geo georgian; kk kaz kazakh; km khm
khmer; kn kan kannada; ko kor kr korean 한국어; la lat latin; lb ltz luxembourgish; ln lin lingala; lo lao; lt lit
lithuanian lietuvių; lv lav latvian latviešu; mg mlg malagasy; mi mri mao maori; mk mkd mac macedonian;
ml mal malayalam; mn mon mongolian; mr mar
marathi; ms msa may malay melayu; mt mlt maltese; my mya bur myanmar burmese; ne nep nepali नेपाली;
nl nld dut dutch flemish nederlands; nn nno nynorsk; no nor nob nb norwegian norsk; oc oci occitan; pa pan punjabi
panjabi; pl pol polish polski; ps pus pashto; pt por portuguese português portugues; ro ron rum romanian moldavian
română; ru rus russian русский; sa san sanskrit; sd snd sindhi; si sin sinhala sinhalese; sk slk slo slovak
slovenčina; sl slv slovenian slovenščina; sn sna shona; so som somali; sq sqi alb albanian shqip; sr srp serbian
srpski српски; su sun sundanese; sv swe swedish svenska; sw swa swahili kiswahili; ta tam tamil தமிழ்; te tel telugu
తెలుగు; tg tgk tajik; th tha thai ไทย; tk tuk turkmen; tl tgl fil tagalog filipino; tr tur turkish türkçe; tt tat
tatar; uk ukr ua ukrainian українська; ur urd urdu اردو; uz uzb uzbek; vi vie vietnamese; wuu wu; yi yid yiddish; yo
yor yoruba; yue cantonese 粤语 粵語 广东话 廣東話; zh zho chi cmn cn chinese mandarin 中文 汉语 漢語 国语 國語 普通话
普通話
"""
_CODES = {word: line.split()[0] for line in _NAMES.split(";") for word in line.split()}

# The languages of the 5Hz language model and of the lyrics that the model was trained on.
MODEL_LANGUAGES = (
    "ar", "az", "bg", "bn", "ca", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fr", "he", "hi", "hr", "ht",
    "hu", "id", "is", "it", "ja", "ko", "la", "lt", "ms", "ne", "nl", "no", "pa", "pl", "pt", "ro", "ru", "sa",
    "sk", "sr", "sv", "sw", "ta", "te", "th", "tl", "tr", "uk", "ur", "vi", "yue", "zh",
)  # fmt: skip
_NEAREST = {"nn": "no", "wuu": "zh", "bs": "hr"}  # languages that the model does not know, as close relatives


def language_code(name: str) -> str:
    """``en`` for "English", "eng", "en-US" and "en"; ``unknown`` for other texts."""
    plain = name.strip().casefold()
    return _CODES.get(plain) or _CODES.get(re.split(r"[-_ (,/]", plain)[0], UNKNOWN_LANGUAGE)


def model_language(name: str) -> str:
    """The code of a language of the model; ``unknown`` for other languages and texts."""
    code = language_code(name)
    code = _NEAREST.get(code, code)
    return code if code in MODEL_LANGUAGES else UNKNOWN_LANGUAGE
