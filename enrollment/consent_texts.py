"""The words a person agrees to, by language. A changed text gets a new version; recorded consents stay.

Another language is another entry here, and a column in enrollment/static/enrollment/words.js for the guidance.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ConsentText:
    language: str  # BCP 47
    language_name: str
    version: str
    text: str
    agreement: str  # what the box beside the text says


CONSENT_TEXTS: tuple[ConsentText, ...] = (
    ConsentText(
        language="en",
        language_name="English",
        version="2026-11",
        text=(
            "I agree that Lintel recognises me by my face in order to open doors for me.\n\n"
            "What happens: the camera turns each picture of my face into numbers and adds random noise to"
            " them before they leave the device. Pictures are not stored and not sent. From a few such "
            "captures a protected template is made and kept, encrypted under a key of my own.\n\n"
            "What is kept: my name, when I am allowed in, the template, and a record of the doors I asked"
            " to open and when.\n\n"
            "What is not promised: the noise limits what can be learned from one capture; it does not "
            "make me anonymous to whoever runs this system.\n\n"
            "My rights: this is voluntary. I may ask for another way in, such as a card, at no "
            "disadvantage. I may withdraw this consent at any time; my template is then destroyed at "
            "once. I may ask what is kept about me, and I may have it erased and get a certificate of "
            "that."
        ),
        agreement="I have read this text, or had it read to me, and I agree.",
    ),
    ConsentText(
        language="de",
        language_name="Deutsch",
        version="2026-11",
        text=(
            "Ich willige ein, dass Lintel mich an meinem Gesicht erkennt, um mir Türen zu öffnen.\n\n"
            "Was geschieht: Die Kamera wandelt jedes Bild meines Gesichts in Zahlen um und fügt ihnen "
            "Zufallsrauschen hinzu, bevor sie das Gerät verlassen. Bilder werden weder gespeichert noch "
            "übertragen. Aus wenigen solchen Aufnahmen entsteht eine geschützte Vorlage, die mit einem "
            "eigenen Schlüssel für mich verschlüsselt aufbewahrt wird.\n\n"
            "Was aufbewahrt wird: mein Name, wann ich Zutritt habe, die Vorlage und ein Protokoll "
            "darüber, welche Türen ich wann öffnen wollte.\n\n"
            "Was nicht versprochen wird: Das Rauschen begrenzt, was sich aus einer Aufnahme erfahren "
            "lässt; gegenüber dem Betreiber dieses Systems macht es mich nicht anonym.\n\n"
            "Meine Rechte: Die Einwilligung ist freiwillig. Ich kann ohne Nachteil einen anderen Zugang "
            "verlangen, zum Beispiel eine Karte. Ich kann sie jederzeit widerrufen; meine Vorlage wird "
            "dann sofort vernichtet. Ich kann Auskunft verlangen, was über mich gespeichert ist, und die "
            "Löschung mit einer Bescheinigung darüber."
        ),
        agreement="Ich habe diesen Text gelesen oder vorgelesen bekommen und willige ein.",
    ),
)


def consent_text(language: str) -> ConsentText | None:
    return next((text for text in CONSENT_TEXTS if text.language == language), None)
