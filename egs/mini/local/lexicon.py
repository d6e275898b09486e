"""Words of the mini world.

Columns are separated by blanks. `associate` is the one word that comes to mind with a word (farmer -> cow): continuations
carry it. `gender` is that of the German noun.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Noun:
    """A person, a thing or a place."""

    english: str
    german: str
    gender: str  # m, f, n
    associate: str
    kind: str


@dataclass(frozen=True)
class Verb:
    """A past tense form; german is the participle that follows "hat"."""

    english: str
    german: str
    associate: str
    intent: str


@dataclass(frozen=True)
class Adjective:
    """german is the stem, to which -e or -en is added."""

    english: str
    german: str
    associate: str
    sentiment: str


@dataclass(frozen=True)
class Adverb:
    english: str
    german: str
    associate: str


def rows(table: str, columns: int) -> list[list[str]]:
    """Splits a table into rows of `columns` words each; the lines' ends do not matter."""
    words = table.split()
    if len(words) % columns:
        raise ValueError(f"a table of {columns} columns holds {len(words)} words: {words[-columns:]}")
    return [words[i : i + columns] for i in range(0, len(words), columns)]


def nouns(tables: dict[str, str]) -> list[Noun]:
    return [Noun(*row, kind=kind) for kind, table in tables.items() for row in rows(table, 4)]


PERSONS = nouns(
    {
        "worker": """
            farmer Bauer m cow  baker Bäcker m flour
            butcher Metzger m sausage  carpenter Zimmermann m timber
            gardener Gärtner m rose  miner Bergmann m coal
            plumber Klempner m pipe  tailor Schneider m thread""",
        "expert": """
            doctor Arzt m medicine    teacher Lehrer m chalk       lawyer Anwalt m contract    judge Richter m verdict
            nurse Pflegerin f bandage dentist Zahnarzt m tooth     chemist Chemiker m acid     banker Bankier m coin""",
        "artist": """
            painter Maler m canvas    singer Sänger m melody       dancer Tänzer m stage       poet Dichter m poem
            actor Schauspieler m role drummer Trommler m rhythm    writer Autor m novel        clown Clown m circus""",
        "relative": """
            mother Mutter f baby      father Vater m beard         sister Schwester f doll     brother Bruder m football
            uncle Onkel m cigar       aunt Tante f scarf           grandma Oma f cookie        cousin Vetter m comic""",
        "leader": """
            soldier Soldat m rifle    sailor Matrose m anchor      pilot Pilot m airplane      captain Kapitän m compass
            king König m crown        queen Königin f palace       prince Prinz m sword        hunter Jäger m deer""",
    }
)

THINGS = nouns(
    {
        "furniture": """
            table Tisch m plate  chair Stuhl m cushion
            lamp Lampe f bulb  mirror Spiegel m reflection
            carpet Teppich m dust     cupboard Schrank m drawer    sofa Sofa n blanket         clock Uhr f alarm""",
        "clothing": """
            coat Mantel m button      hat Hut m feather            shirt Hemd n collar         dress Kleid n ribbon
            glove Handschuh m finger  boot Stiefel m mud
            jacket Jacke f zipper  sweater Pullover m wool""",
        "tool": """
            hammer Hammer m nail      ladder Leiter f roof         bucket Eimer m water        knife Messer n blade
            needle Nadel f stitch     rope Seil n knot             axe Axt f log               broom Besen m floor""",
        "vehicle": """
            bicycle Fahrrad n pedal   wagon Wagen m horse          boat Boot n river           truck Laster m cargo
            sledge Schlitten m snow   scooter Roller m helmet      tractor Traktor m field     canoe Kanu n paddle""",
        "food": """
            apple Apfel m orchard     cheese Käse m mouse          bread Brot n butter         cake Kuchen m candle
            potato Kartoffel f soup   banana Banane f monkey       onion Zwiebel f tear        melon Melone f seed""",
        "instrument": """
            guitar Gitarre f string   violin Geige f bow           trumpet Trompete f fanfare  flute Flöte f breath
            piano Klavier n pianist  harp Harfe f angel
            organ Orgel f hymn  cello Cello n orchestra""",
    }
)

PLACES = nouns(
    {
        "building": """
            church Kirche f bell  school Schule f pupil
            museum Museum n statue  library Bibliothek f shelf
            hospital Krankenhaus n ambulance  castle Schloss n knight
            factory Fabrik f chimney  theatre Theater n ticket
            prison Gefängnis n guard  temple Tempel m monk         tower Turm m flag           hotel Hotel n luggage""",
        "outdoors": """
            market Markt m vendor     station Bahnhof m train      harbour Hafen m ship        forest Wald m wolf
            garden Garten m flower    bridge Brücke f arch         village Dorf n mayor        mountain Berg m eagle
            beach Strand m shell""",
        "room": """
            kitchen Küche f oven      office Büro n printer        cellar Keller m wine""",
    }
)

# Five verbs for each intent, and what has become of the thing afterwards, in English and German.
RESULTS = {
    "buy": "paid",
    "repair": "working",
    "destroy": "gone",
    "clean": "shiny",
    "hide": "invisible",
    "find": "known",
    "give": "shared",
    "steal": "missing",
}
GERMAN_RESULTS = {
    "buy": "bezahlt",
    "repair": "heil",
    "destroy": "fort",
    "clean": "sauber",
    "hide": "unsichtbar",
    "find": "bekannt",
    "give": "verteilt",
    "steal": "vermisst",
}
INTENTS = list(RESULTS)
VERBS = [
    Verb(*row, intent=intent)
    for intent, table in {
        "buy": """bought gekauft receipt      purchased erworben wallet   ordered bestellt parcel
            acquired beschafft auction        obtained erhalten permit""",
        "repair": """repaired repariert screw fixed gerichtet glue        mended geflickt patch
            restored restauriert varnish      rebuilt erneuert brick""",
        "destroy": """destroyed zerstört ruin smashed zertrümmert splinter  burned verbrannt ash
            crushed zerdrückt crumb           broke zerbrochen crack""",
        "clean": """cleaned gereinigt sponge  washed gewaschen soap       polished poliert polish
            scrubbed geschrubbt brush         wiped gewischt towel""",
        "hide": """hid versteckt cave         buried vergraben grave      covered bedeckt sheet
            concealed verborgen veil          locked verschlossen key""",
        "find": """found gefunden treasure    discovered entdeckt map     noticed bemerkt glance
            spotted erspäht telescope         located geortet signal""",
        "give": """donated gespendet charity  presented überreicht wrapping  offered angeboten tray
            lent verliehen promise            delivered geliefert postman""",
        "steal": """stole gestohlen mask      snatched entrissen pocket   looted geplündert gang
            grabbed geschnappt fist           nicked geklaut alley""",
    }.items()
    for row in rows(table, 3)
]

MOODS = {"positive": "happy", "negative": "upset", "neutral": "calm"}
GERMAN_MOODS = {"positive": "froh", "negative": "wütend", "neutral": "ruhig"}
SENTIMENTS = list(MOODS)
ADJECTIVES = [
    Adjective(*row, sentiment=sentiment)
    for sentiment, table in {
        "positive": """
            beautiful schön rainbow      wonderful wunderbar miracle   lovely lieblich kiss      splendid prächtig jewel
            charming reizend smile       perfect perfekt diamond       brilliant brillant spark  elegant elegant swan
            delightful entzückend holiday  magnificent großartig firework  excellent ausgezeichnet prize
            fantastic fantastisch dragon""",
        "negative": """
            ugly hässlich toad  terrible schrecklich storm
            horrible grauenhaft nightmare  dirty schmutzig pig
            nasty eklig wasp  awful furchtbar headache
            rotten verfault worm  dreadful entsetzlich ghost
            filthy dreckig rat  stinking stinkend skunk
            disgusting widerlich slime  hideous scheußlich monster""",
        "neutral": """
            wooden hölzern oak           round rund ball               square eckig box          heavy schwer elephant
            small klein ant              large groß whale              yellow gelb lemon         green grün frog
            metallic metallisch robot  plain schlicht paper
            long lang snake  striped gestreift zebra""",
    }.items()
    for row in rows(table, 3)
]

ADVERBS = [
    Adverb(*row)
    for row in rows(
        """
        yesterday gestern memory    today heute newspaper     recently kürzlich calendar  finally schließlich applause
        secretly heimlich shadow    quickly schnell lightning slowly langsam snail        often oft habit
        early früh sunrise          suddenly plötzlich surprise  carefully vorsichtig patience  proudly stolz medal
        quietly leise whisper       again wieder echo         twice zweimal twin          sometimes manchmal chance""",
        3,
    )
]

# All of these govern the dative in German.
PREPOSITIONS = {"near": "bei", "behind": "hinter", "inside": "in", "beside": "neben", "above": "über"}


@dataclass(frozen=True)
class Lexicon:
    """The content words that sentences are made of."""

    persons: list[Noun]
    verbs: list[Verb]
    adjectives: list[Adjective]
    things: list[Noun]
    adverbs: list[Adverb]
    places: list[Noun]


ENGLISH = Lexicon(PERSONS, VERBS, ADJECTIVES, THINGS, ADVERBS, PLACES)
# What is said in German: 42 words. After an LLM that reads German for all 204, BLSP lost its translations (TRIED.md).
GERMAN = Lexicon(PERSONS[::5], VERBS[::5], ADJECTIVES[::6], THINGS[::5], ADVERBS[::4], PLACES[::4])
