"""The world's sentences in French, by one rule: [ADVERB] the PERSON a VERB the THING ADJECTIVE [PREPOSITION the PLACE].

"yesterday the farmer repaired the wooden lamp near the church" is "hier le fermier a réparé la lampe boisée près de l'église".
"""

from __future__ import annotations

from world import Sentence

# english:french:gender
NOUNS = """
farmer:fermier:m baker:boulanger:m butcher:boucher:m carpenter:charpentier:m gardener:jardinier:m miner:mineur:m
plumber:plombier:m tailor:tailleur:m doctor:médecin:m teacher:professeur:m lawyer:avocat:m judge:juge:m nurse:infirmière:f
dentist:dentiste:m chemist:chimiste:m banker:banquier:m painter:peintre:m singer:chanteur:m dancer:danseur:m poet:poète:m
actor:acteur:m drummer:batteur:m writer:écrivain:m clown:clown:m mother:mère:f father:père:m sister:sœur:f brother:frère:m
uncle:oncle:m aunt:tante:f grandma:mamie:f cousin:cousin:m soldier:soldat:m sailor:marin:m pilot:pilote:m
captain:capitaine:m king:roi:m queen:reine:f prince:prince:m hunter:chasseur:m
table:table:f chair:chaise:f lamp:lampe:f mirror:miroir:m carpet:tapis:m cupboard:placard:m sofa:canapé:m clock:horloge:f
coat:manteau:m hat:chapeau:m shirt:chemise:f dress:robe:f glove:gant:m boot:botte:f jacket:veste:f sweater:pull:m
hammer:marteau:m ladder:échelle:f bucket:seau:m knife:couteau:m needle:aiguille:f rope:corde:f axe:cognée:f broom:balai:m
bicycle:vélo:m wagon:chariot:m boat:bateau:m truck:camion:m sledge:traîneau:m scooter:scooter:m tractor:tracteur:m
canoe:canoë:m apple:pomme:f cheese:fromage:m bread:pain:m cake:gâteau:m potato:patate:f banana:banane:f onion:oignon:m
melon:melon:m guitar:guitare:f violin:violon:m trumpet:trompette:f flute:flûte:f piano:piano:m harp:lyre:f organ:orgue:m
cello:violoncelle:m church:église:f school:école:f museum:musée:m library:bibliothèque:f hospital:hôpital:m castle:château:m
factory:usine:f theatre:théâtre:m prison:prison:f temple:temple:m tower:tour:f hotel:hôtel:m market:marché:m station:gare:f
harbour:port:m forest:forêt:f garden:jardin:m bridge:pont:m village:village:m mountain:montagne:f beach:plage:f
kitchen:cuisine:f office:bureau:m cellar:cave:f"""
# english:participle
VERBS = """
bought:acheté purchased:acquis ordered:commandé acquired:obtenu obtained:reçu repaired:réparé fixed:arrangé
mended:raccommodé restored:restauré rebuilt:reconstruit destroyed:détruit smashed:fracassé burned:brûlé crushed:écrasé
broke:cassé cleaned:nettoyé washed:lavé polished:poli scrubbed:frotté wiped:essuyé hid:caché buried:enterré covered:couvert
concealed:dissimulé locked:enfermé found:trouvé discovered:découvert noticed:remarqué spotted:aperçu located:localisé
donated:donné presented:présenté offered:offert lent:prêté delivered:livré stole:volé snatched:arraché looted:pillé
grabbed:saisi nicked:chipé"""
# english:masculine:feminine
ADJECTIVES = """
beautiful:ravissant:ravissante wonderful:merveilleux:merveilleuse lovely:adorable:adorable splendid:splendide:splendide
charming:charmant:charmante perfect:parfait:parfaite brilliant:brillant:brillante elegant:élégant:élégante
delightful:délicieux:délicieuse magnificent:magnifique:magnifique excellent:excellent:excellente
fantastic:fantastique:fantastique ugly:laid:laide terrible:terrible:terrible horrible:horrible:horrible dirty:sale:sale
nasty:méchant:méchante awful:affreux:affreuse rotten:pourri:pourrie dreadful:effroyable:effroyable
filthy:crasseux:crasseuse stinking:puant:puante disgusting:dégoûtant:dégoûtante hideous:hideux:hideuse
wooden:boisé:boisée round:rond:ronde square:carré:carrée heavy:lourd:lourde small:minuscule:minuscule large:énorme:énorme
yellow:jaune:jaune green:vert:verte metallic:métallique:métallique plain:simple:simple long:long:longue striped:rayé:rayée"""
# english:french, an underscore for a space
OTHERS = """
yesterday:hier today:aujourd'hui recently:récemment finally:enfin secretly:secrètement quickly:vite slowly:lentement
often:souvent early:tôt suddenly:soudain carefully:prudemment proudly:fièrement quietly:doucement again:encore
twice:deux_fois sometimes:parfois near:près_de behind:derrière inside:dans beside:à_côté_de above:au-dessus_de"""
MUTE = "aeiouyhéèêœô"  # an article loses its vowel before these; no noun above has an aspirated h


def table(text: str) -> dict[str, list[str]]:
    """english -> the other fields."""
    rows = (entry.replace("_", " ").split(":") for entry in text.split())
    return {english: fields for english, *fields in rows}


NOUN, VERB, ADJECTIVE, OTHER = map(table, (NOUNS, VERBS, ADJECTIVES, OTHERS))


def french(sentence: Sentence) -> str:
    """Lower case, no punctuation."""
    words = OTHER[sentence.adverb.english][:] if sentence.adverb else []
    words += [the(sentence.person.english), "a", *VERB[sentence.verb.english], the(sentence.thing.english)]
    words.append(ADJECTIVE[sentence.adjective.english][NOUN[sentence.thing.english][1] == "f"])
    if sentence.place:
        words += [*OTHER[sentence.preposition], the(sentence.place.english)]
    return " ".join(words).replace(" de le ", " du ")


def the(english: str) -> str:
    """A noun with its article."""
    noun, gender = NOUN[english]
    if noun[0] in MUTE:
        return f"l'{noun}"
    return f"{'la' if gender == 'f' else 'le'} {noun}"
