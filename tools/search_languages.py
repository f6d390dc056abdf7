"""Search in eleven languages: how often the right passage is found, and how often first.

python -m tools.search_languages

Each language has ten sentences, each a document of its own, and questions in key words, most in
another form of the word than the sentence has. Reported are recall (share of the right sentences
among all that are found), precision (share of right ones among all that are found) and how often
the first one is right.
"""

from __future__ import annotations

from templora_memory.domain.journal import JournalEntry
from templora_memory.domain.messages import Document
from templora_memory.service.search import PassageIndex

# sentences; questions with the numbers of the right sentences
SETS: dict[str, tuple[list[str], dict[str, set[int]]]] = {
    "English": (
        [
            "Ada keeps bees on the roof of the observatory.",
            "Her brother repairs old clocks in Harwich.",
            "She paid nine crowns for the blue lantern.",
            "The ferry leaves from pier four every morning.",
            "Two geese guard the garden behind the mill.",
            "He has been afraid of dogs since his childhood.",
            "Their daughter studies medicine in Leiden.",
            "The baker sells rye bread on Thursdays.",
            "Snow closed the pass for eleven days.",
            "In the evening they sing songs from the north.",
        ],
        {
            "bee": {0},
            "clock repair": {1},
            "lanterns": {2},
            "ferries leaving": {3},
            "goose garden": {4},
            "dog": {5},
            "daughters": {6},
            "selling bread": {7},
            "days of snow": {8},
            "singing song": {9},
        },
    ),
    "German": (
        [
            "Ada hält Bienen auf dem Dach der Sternwarte.",
            "Ihr Bruder repariert alte Uhren in Husum.",
            "Sie hat neun Kronen für die blaue Laterne bezahlt.",
            "Die Fähre legt jeden Morgen am vierten Steg ab.",
            "Zwei Gänse bewachen den Garten hinter der Mühle.",
            "Er fürchtet sich seit seiner Kindheit vor Hunden.",
            "Ihre Tochter studiert Medizin in Leipzig.",
            "Der Bäcker verkauft donnerstags Roggenbrot.",
            "Schnee sperrte den Pass elf Tage lang.",
            "Abends singen sie Lieder aus dem Norden.",
        ],
        {
            "Biene": {0},
            "alte Uhr": {1},
            "Laternen": {2},
            "Fähren": {3},
            "Gans": {4},
            "Hund": {5},
            "Töchter": {6},
            "Bäckers": {7},
            "Tag": {8},
            "Lied": {9},
        },
    ),
    "French": (
        [
            "Ada élève des abeilles sur le toit de l'observatoire.",
            "Son frère répare de vieilles horloges à Brest.",
            "Elle a payé neuf couronnes pour la lanterne bleue.",
            "Le bac part du quai numéro quatre chaque matin.",
            "Deux oies gardent le jardin derrière le moulin.",
            "Il a peur des chiens depuis son enfance.",
            "Leur fille étudie la médecine à Lyon.",
            "Le boulanger vend du pain de seigle le jeudi.",
            "La neige a fermé le col pendant onze jours.",
            "Le soir ils chantent des chansons du nord.",
        ],
        {
            "abeille": {0},
            "horloge réparer": {1},
            "lanternes": {2},
            "quais": {3},
            "oie jardins": {4},
            "chien": {5},
            "filles etudier": {6},
            "boulangers": {7},
            "jour de neige": {8},
            "chanter chanson": {9},
        },
    ),
    "Spanish": (
        [
            "Ada cría abejas en el tejado del observatorio.",
            "Su hermano repara relojes viejos en Cádiz.",
            "Pagó nueve coronas por la linterna azul.",
            "El barco sale del muelle cuatro cada mañana.",
            "Dos gansos vigilan el jardín detrás del molino.",
            "Tiene miedo a los perros desde su infancia.",
            "Su hija estudia medicina en Salamanca.",
            "El panadero vende pan de centeno los jueves.",
            "La nieve cerró el paso durante once días.",
            "Por la noche cantan canciones del norte.",
        ],
        {
            "abeja": {0},
            "reloj": {1},
            "linternas": {2},
            "barcos": {3},
            "ganso jardines": {4},
            "perro": {5},
            "hijas": {6},
            "panaderos": {7},
            "día": {8},
            "canción": {9},
        },
    ),
    "Russian": (
        [
            "Ада держит пчёл на крыше обсерватории.",
            "Её брат чинит старые часы в Твери.",
            "Она заплатила девять крон за синий фонарь.",
            "Паром уходит каждое утро от четвёртого причала.",
            "Два гуся стерегут сад за мельницей.",
            "Он с детства боится собак.",
            "Их дочь изучает медицину в Казани.",
            "Пекарь продаёт ржаной хлеб по четвергам.",
            "Снег закрыл перевал на одиннадцать дней.",
            "По вечерам они поют песни севера.",
        ],
        {
            "пчела": {0},
            "старый брат": {1},
            "фонари": {2},
            "паромы": {3},
            "мельница": {4},
            "собака": {5},
            "медицина": {6},
            "пекаря хлеба": {7},
            "снега": {8},
            "песня": {9},
        },
    ),
    "Arabic": (
        [
            "تربي آدا النحل على سطح المرصد.",
            "يصلح أخوها الساعات القديمة في طنجة.",
            "دفعت تسع قطع ثمن الفانوس الأزرق.",
            "تغادر العبارة الرصيف الرابع كل صباح.",
            "تحرس إوزتان الحديقة خلف الطاحونة.",
            "يخاف الكلاب منذ طفولته.",
            "تدرس ابنتهما الطب في دمشق.",
            "يبيع الخباز خبز الشعير يوم الخميس.",
            "أغلق الثلج الممر أحد عشر يوما.",
            "في المساء يغنون أغاني الشمال.",
        ],
        {
            "نحل": {0},
            "ساعات": {1},
            "فانوس": {2},
            "رصيف": {3},
            "حديقة": {4},
            "كلاب": {5},
            "طب": {6},
            "خباز": {7},
            "ثلج": {8},
            "مساء": {9},
        },
    ),
    "Hindi": (
        [
            "आदा वेधशाला की छत पर मधुमक्खियाँ पालती है।",
            "उसका भाई पुरानी घड़ियाँ ठीक करता है।",
            "उसने नीली लालटेन के लिए नौ सिक्के दिए।",
            "नाव हर सुबह चौथे घाट से चलती है।",
            "दो हंस चक्की के पीछे बगीचे की रखवाली करते हैं।",
            "वह बचपन से कुत्तों से डरता है।",
            "उनकी बेटी जयपुर में चिकित्सा पढ़ती है।",
            "मंदिर में दान गुरुवार को लिया जाता है।",
            "बर्फ़ ने दर्रे को ग्यारह दिन बंद रखा।",
            "शाम को वे उत्तर के गीत गाते हैं।",
        ],
        {
            "मधुमक्खी": {0},
            "घड़ी": {1},
            "लालटेनों": {2},
            "नावें": {3},
            "बगीचा": {4},
            "कुत्ता": {5},
            "बेटियाँ": {6},
            "दान": {7},
            "दिन": {8},
            "गीतों": {9},
        },
    ),
    "Chinese": (
        [
            "艾达在天文台的屋顶上养蜜蜂。",
            "她的哥哥在宁波修理旧钟表。",
            "她花了九个银币买那盏蓝灯笼。",
            "渡船每天早上从四号码头出发。",
            "两只鹅看守磨坊后面的花园。",
            "他从小就害怕狗。",
            "他们的女儿在广州学习医学。",
            "面包师星期四卖黑麦面包。",
            "大雪封住山口十一天。",
            "晚上他们唱北方的歌曲。",
        ],
        {
            "蜜蜂": {0},
            "钟表": {1},
            "灯笼": {2},
            "渡船码头": {3},
            "花园": {4},
            "狗": {5},
            "谁学习医学？": {6},
            "面包": {7},
            "大雪": {8},
            "歌曲": {9},
        },
    ),
    "Japanese": (
        [
            "アダは天文台の屋根で蜜蜂を飼っている。",
            "彼女の兄は長崎で古い時計を直している。",
            "彼女は青いランタンに銀貨九枚を払った。",
            "渡し船は毎朝四番桟橋から出る。",
            "二羽のガチョウが水車小屋の裏の庭を守っている。",
            "彼は子供の頃から犬が怖い。",
            "二人の娘は仙台で医学を学んでいる。",
            "パン屋は木曜日にライ麦パンを売る。",
            "雪で峠が十一日間閉ざされた。",
            "夜になると北国の歌を歌う。",
        ],
        {
            "屋根": {0},
            "時計": {1},
            "ランタン": {2},
            "渡し船": {3},
            "ガチョウ": {4},
            "犬": {5},
            "医学": {6},
            "パン屋": {7},
            "峠": {8},
            "歌": {9},
        },
    ),
    "Korean": (
        [
            "아다는 천문대 지붕에서 꿀벌을 키운다.",
            "그녀의 오빠는 부산에서 낡은 시계를 고친다.",
            "그녀는 파란 등불을 은화 아홉 닢에 샀다.",
            "나룻배는 매일 아침 네 번째 부두에서 떠난다.",
            "거위 두 마리가 방앗간 뒤 정원을 지킨다.",
            "그는 어릴 때부터 강아지를 무서워한다.",
            "그들의 딸은 대구에서 의학을 공부한다.",
            "빵집은 목요일마다 호밀빵을 판다.",
            "폭설로 고개가 열하루 동안 막혔다.",
            "저녁이면 그들은 북쪽의 노래를 부른다.",
        ],
        {
            "꿀벌": {0},
            "시계": {1},
            "등불": {2},
            "부두": {3},
            "정원": {4},
            "강아지": {5},
            "의학": {6},
            "호밀빵": {7},
            "폭설": {8},
            "노래": {9},
        },
    ),
    "Thai": (
        [
            "อาดาเลี้ยงผึ้งบนหลังคาหอดูดาว",
            "พี่ชายของเธอซ่อมนาฬิกาเก่าที่สงขลา",
            "เธอจ่ายเก้าเหรียญซื้อโคมไฟสีฟ้า",
            "เรือข้ามฟากออกจากท่าที่สี่ทุกเช้า",
            "ห่านสองตัวเฝ้าสวนหลังโรงสี",
            "เขากลัวสุนัขตั้งแต่เด็ก",
            "ลูกสาวของพวกเขาเรียนแพทย์ที่เชียงใหม่",
            "คนทำขนมปังขายขนมปังทุกวันพฤหัสบดี",
            "หิมะปิดช่องเขาสิบเอ็ดวัน",
            "ตอนเย็นพวกเขาร้องเพลงของภาคเหนือ",
        ],
        {
            "ผึ้ง": {0},
            "นาฬิกา": {1},
            "โคมไฟ": {2},
            "เรือข้ามฟาก": {3},
            "ห่าน": {4},
            "สุนัข": {5},
            "ลูกสาว": {6},
            "ขนมปัง": {7},
            "หิมะ": {8},
            "ร้องเพลง": {9},
        },
    ),
}


def measure(sentences: list[str], questions: dict[str, set[int]]) -> tuple[float, float, float]:
    """Return recall, precision and the share of questions whose first hit is right."""
    index = PassageIndex(("salt", 0))
    for number, sentence in enumerate(sentences):
        index.add_document(
            JournalEntry(id=str(number), digest=str(number), item=Document(sentence), time=None)
        )
    sources = set(map(str, range(len(sentences))))
    wanted = right = returned = first = 0
    for question, relevant in questions.items():
        hits = [int(hit.source) for hit in index.search(question, sources)]
        wanted += len(relevant)
        right += len(relevant & set(hits))
        returned += len(hits)
        first += bool(hits) and hits[0] in relevant
    index.close()
    return right / wanted, right / max(1, returned), first / len(questions)


def main() -> None:
    print("| language | recall | precision | first is right |")
    print("| --- | --- | --- | --- |")
    for language, (sentences, questions) in SETS.items():
        print(f"| {language} |", " | ".join(f"{n:.2f}" for n in measure(sentences, questions)), "|")


if __name__ == "__main__":
    main()
