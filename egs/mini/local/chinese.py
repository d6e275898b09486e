"""The world's sentences in Mandarin, by one rule: [ADVERB] PERSON [在 PLACE PREPOSITION] VERB 了 ADJECTIVE 的 THING.

"yesterday the farmer repaired the wooden lamp near the church" is 昨天农民在教堂附近修理了木制的灯.
"""

from __future__ import annotations

from world import Sentence

TABLE = """
farmer:农民 baker:面包师 butcher:屠夫 carpenter:木匠 gardener:园丁 miner:矿工 plumber:水管工 tailor:裁缝
doctor:医生 teacher:老师 lawyer:律师 judge:法官 nurse:护士 dentist:牙医 chemist:化学家 banker:银行家
painter:画家 singer:歌手 dancer:舞者 poet:诗人 actor:演员 drummer:鼓手 writer:作家 clown:小丑
mother:母亲 father:父亲 sister:妹妹 brother:哥哥 uncle:叔叔 aunt:阿姨 grandma:奶奶 cousin:表弟
soldier:士兵 sailor:水手 pilot:飞行员 captain:船长 king:国王 queen:女王 prince:王子 hunter:猎人
table:桌子 chair:椅子 lamp:灯 mirror:镜子 carpet:地毯 cupboard:橱柜 sofa:沙发 clock:时钟
coat:大衣 hat:帽子 shirt:衬衫 dress:裙子 glove:手套 boot:靴子 jacket:夹克 sweater:毛衣
hammer:锤子 ladder:梯子 bucket:水桶 knife:刀 needle:针 rope:绳子 axe:斧头 broom:扫帚
bicycle:自行车 wagon:马车 boat:小船 truck:卡车 sledge:雪橇 scooter:滑板车 tractor:拖拉机 canoe:独木舟
apple:苹果 cheese:奶酪 bread:面包 cake:蛋糕 potato:土豆 banana:香蕉 onion:洋葱 melon:甜瓜
guitar:吉他 violin:小提琴 trumpet:小号 flute:长笛 piano:钢琴 harp:竖琴 organ:管风琴 cello:大提琴
church:教堂 school:学校 museum:博物馆 library:图书馆 hospital:医院 castle:城堡 factory:工厂 theatre:剧院
prison:监狱 temple:寺庙 tower:塔楼 hotel:酒店 market:市场 station:车站 harbour:港口 forest:森林
garden:花园 bridge:桥 village:村庄 mountain:山 beach:海滩 kitchen:厨房 office:办公室 cellar:地窖
bought:买 purchased:购买 ordered:订购 acquired:购得 obtained:取得
repaired:修理 fixed:修好 mended:修补 restored:修复 rebuilt:重建
destroyed:毁坏 smashed:砸碎 burned:烧毁 crushed:压碎 broke:打破
cleaned:清洁 washed:洗 polished:擦亮 scrubbed:刷洗 wiped:擦拭
hid:藏起 buried:埋藏 covered:盖住 concealed:隐藏 locked:锁住
found:找到 discovered:发现 noticed:注意到 spotted:看见 located:定位
donated:捐赠 presented:赠送 offered:提供 lent:借出 delivered:送来
stole:偷走 snatched:抢走 looted:抢劫 grabbed:抓走 nicked:顺走
beautiful:美丽 wonderful:奇妙 lovely:可爱 splendid:辉煌 charming:迷人 perfect:完美 brilliant:出色 elegant:优雅
delightful:宜人 magnificent:壮丽 excellent:优秀 fantastic:极好 ugly:丑陋 terrible:可怕 horrible:恐怖 dirty:肮脏
nasty:恶劣 awful:糟糕 rotten:腐烂 dreadful:骇人 filthy:污秽 stinking:发臭 disgusting:恶心 hideous:难看
wooden:木制 round:圆形 square:方形 heavy:沉重 small:很小 large:很大 yellow:黄色 green:绿色
metallic:金属 plain:朴素 long:很长 striped:条纹
yesterday:昨天 today:今天 recently:最近 finally:终于 secretly:秘密地 quickly:很快地 slowly:慢慢地 often:经常
early:早早地 suddenly:突然 carefully:小心地 proudly:自豪地 quietly:静静地 again:再次 twice:两次 sometimes:有时
near:附近 behind:后面 inside:里面 beside:旁边 above:上面"""
WORDS = dict(pair.split(":") for pair in TABLE.split())


def chinese_words(sentence: Sentence) -> list[str]:
    """The sentence's words in Mandarin."""
    words = [WORDS[sentence.adverb.english]] if sentence.adverb else []
    words.append(WORDS[sentence.person.english])
    if sentence.place:
        words += ["在", WORDS[sentence.place.english], WORDS[sentence.preposition]]
    return [*words, WORDS[sentence.verb.english], "了", WORDS[sentence.adjective.english], "的", WORDS[sentence.thing.english]]


def chinese(sentence: Sentence) -> str:
    """The sentence as it is written: without spaces or punctuation."""
    return "".join(chinese_words(sentence))
