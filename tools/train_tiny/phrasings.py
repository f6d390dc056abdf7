"""Many ways to tell and to ask the facts of the persona world, once for every grammatical person.

One template serves first, second and third person. `{live|lives}` is the verb for I or you, and for
one person spoken about; the marks below are filled with a pronoun or a name:

| mark | first person | second person | third person |
| --- | --- | --- | --- |
| `{S}`, `{s}` at the beginning of a sentence, inside it | I | you | Ada, she |
| `{P}`, `{p}` | My, my | Your, your | Ada's, her |
| `{o}` | me | you | Ada, her |
| `{v}`, `{V}` | the value, with a capital | | |

None of these repeats a phrasing that is held out for evaluation (the last one of each list in
`persona_world.FACTS`); words may.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_VERB = re.compile(r"\{([^{}|]*)\|([^{}|]*)\}")


def fill(template: str, words: Mapping[str, str], *, third: bool) -> str:
    """Put words for the marks and the verb forms of one person into a template."""
    text = _VERB.sub(lambda found: found[2 if third else 1], template)
    for mark, word in words.items():
        text = text.replace(f"{{{mark}}}", word)
    return text


FIRST = {"S": "I", "s": "I", "P": "My", "p": "my", "o": "me"}
SECOND = {"S": "You", "s": "you", "P": "Your", "p": "your", "o": "you"}

TELL: Mapping[str, Sequence[str]] = {
    "kind": [
        "{S} {am|is} {v}, no more and no less.",
        "In truth {s} {am|is} {v}.",
        "{S} {have|has} always been {v}.",
        "Anyone can see that {s} {am|is} {v}.",
    ],
    "home": [
        "{S} {have|has} lived in {v} for years.",
        "You will find {o} in {v}.",
        "{V} is {p} home.",
        "{P} little house is in {v}.",
        "These days {s} {live|lives} in {v}.",
        "{S} {have|has} a small house in {v}.",
        "{P} door is always open in {v}.",
    ],
    "work": [
        "{S} {am|is} {v}.",
        "{P} work is that of {v}.",
        "All day long {s} {work|works} as {v}.",
        "People know {o} as {v}.",
        "{S} {make|makes} {p} money as {v}.",
        "{P} job: {s} {am|is} {v}.",
    ],
    "treasure": [
        "{S} {have|has} {v} that {s} {love|loves}.",
        "In {p} pocket {s} {carry|carries} {v}.",
        "{S} {never go|never goes} anywhere without {v}.",
        "The thing {s} {love|loves} most is {v}.",
        "{S} {keep|keeps} {v} close at all times.",
        "Of all {p} things, {s} {love|loves} {v} most.",
    ],
    "friend": [
        "{S} {have|has} a good friend called {v}.",
        "{V} is {p} best friend.",
        "{V} has been {p} friend for many years.",
        "{S} {tell|tells} {v} everything.",
        "{P} dearest friend is {v}.",
        "Nobody is closer to {o} than {v}.",
    ],
    "rival": [
        "{S} {do|does} not like {v}.",
        "{V} is {p} rival.",
        "{S} {have|has} an old quarrel with {v}.",
        "{P} enemy is {v}.",
        "{S} and {v} are not on speaking terms.",
        "{S} {have|has} no kind word for {v}.",
    ],
    "fear": [
        "{S} {am|is} scared of {v}.",
        "What {s} {fear|fears} most is {v}.",
        "{P} greatest fear is {v}.",
        "Nothing is worse for {o} than {v}.",
        "{S} {tremble|trembles} at the thought of {v}.",
        "Brave as {s} {am|is}, {s} {am|is} afraid of {v}.",
    ],
    "plan": [
        "{P} dream is to {v}.",
        "{S} {plan|plans} to {v}.",
        "{S} {hope|hopes} to {v}.",
        "Some day {s} {am|is} going to {v}.",
        "More than anything {s} {want|wants} to {v}.",
        "{P} great wish is to {v}.",
        "Before {s} {am|is} old, {s} {want|wants} to {v}.",
    ],
    "food": [
        "{S} {like|likes} {v} more than any other food.",
        "{S} {would|would} walk a mile for {v}.",
        "{P} favourite dish is {v}.",
        "There is nothing {s} {like|likes} to eat more than {v}.",
        "{V} always makes {o} happy.",
        "{S} {am|is} very fond of {v}.",
    ],
    "pet": [
        "{S} {own|owns} {v}.",
        "At home {s} {have|has} {v}.",
        "{S} {live|lives} with {v}.",
        "{S} {take|takes} care of {v}.",
        "{P} only company is {v}.",
        "Wherever {s} {go|goes}, {s} {take|takes} along {v}.",
    ],
    "colour": [
        "{S} {love|loves} the colour {v}.",
        "{S} {am|is} always dressed in {v}.",
        "{P} best coat is {v}, because {s} {love|loves} that colour.",
        "Of all the colours, {s} {like|likes} {v} most.",
        "If {s} {choose|chooses} a colour, it is {v}.",
    ],
    "age": [
        "{P} age is {v}.",
        "{S} {am|is} now {v} years old.",
        "This year {s} turned {v}.",
        "{S} {have|has} seen {v} summers.",
        "{S} {am|is} {v}.",
    ],
    "teacher": [
        "{V} was {p} teacher.",
        "{S} owe{|s} everything to a teacher called {v}.",
        "When {s} {was|was} young, {v} taught {o}.",
        "All {s} {know|knows} comes from {v}.",
        "{S} learned the craft from {v}.",
    ],
    "secret": [
        "{S} {have|has} a secret: {v}.",
        "Nobody else knows that {s} {keep|keeps} {v}.",
        "Long ago {s} hid {v}.",
        "There is one thing {s} {tell|tells} no one: {s} hid {v}.",
        "{S} {guard|guards} a secret, {v}.",
    ],
    "hobby": [
        "{S} {love|loves} {v}.",
        "{P} favourite pastime is {v}.",
        "When work is done, {s} {like|likes} {v}.",
        "On free days you will see {o} {v}.",
        "Nothing makes {o} happier than {v}.",
        "For fun {s} {like|likes} {v}.",
    ],
    "market": [
        "{S} {am|is} at the market {v}.",
        "{V} {s} {have|has} a stall at the market.",
        "{S} {buy|buys} and {sell|sells} at the market {v}.",
        "Every week {s} {go|goes} to market {v}.",
    ],
}
"""Further sentences that tell a fact, by its key."""

ASK: Mapping[str, Sequence[str]] = {
    "kind": [
        "What sort of creature {are|is} {s}?",
        "{Are|Is} {s} a person or something else?",
        "What exactly {are|is} {s}?",
        "Who or what {are|is} {s}?",
    ],
    "home": [
        "Where {are|is} {s} at home?",
        "In which town or village {do|does} {s} live?",
        "Where {do|does} {s} live now?",
        "Where is {p} house?",
        "What is the name of the place where {s} {live|lives}?",
        "What place {do|does} {s} live in?",
        "Where should I go if I want to visit {o}?",
        "Where {do|does} {s} sleep at night?",
        "What is {p} home called?",
        "Where {have|has} {s} settled?",
    ],
    "work": [
        "What {do|does} {s} do?",
        "What do people pay {o} for?",
        "What is {p} job?",
        "What is {p} profession?",
        "What {do|does} {s} work as?",
        "What kind of work {do|does} {s} do?",
        "How {do|does} {s} earn {p} bread?",
        "What {do|does} {s} do all day?",
        "What trade {do|does} {s} follow?",
        "Where does {p} money come from?",
    ],
    "treasure": [
        "What {do|does} {s} have in {p} pocket?",
        "What {do|does} {s} treasure most?",
        "What is {p} most precious thing?",
        "Which thing {do|does} {s} love most?",
        "What {do|does} {s} carry everywhere?",
        "What {do|does} {s} never leave at home?",
        "What thing is most dear to {o}?",
        "What would {s} save from a fire?",
        "Which object {do|does} {s} keep close?",
    ],
    "friend": [
        "Who is {p} friend?",
        "Who is {p} dearest friend?",
        "{Do|Does} {s} have a friend?",
        "To whom {do|does} {s} tell everything?",
        "Who is closest to {o}?",
        "Who {are|is} {s} friends with?",
        "Who stands by {o}?",
        "Who {do|does} {s} trust most?",
        "What is {p} best friend called?",
    ],
    "rival": [
        "Who is {p} enemy?",
        "{Do|Does} {s} have a rival?",
        "Who {do|does} {s} not like?",
        "Who is not {p} friend?",
        "With whom {have|has} {s} quarrelled?",
        "Whom {do|does} {s} want to avoid?",
        "Who can't {s} stand?",
        "Who {do|does} {s} argue with?",
        "What is the name of {p} rival?",
    ],
    "fear": [
        "What scares {o}?",
        "{Are|Is} {s} scared of anything?",
        "What {are|is} {s} scared of?",
        "{Are|Is} {s} afraid of something?",
        "What is {p} greatest fear?",
        "What {do|does} {s} run away from?",
        "What makes {o} tremble?",
        "What {do|does} {s} fear most?",
        "Which thing would {s} rather not meet?",
    ],
    "plan": [
        "What {are|is} {s} going to do some day?",
        "What is {p} dream?",
        "What {are|is} {s} hoping for?",
        "What {do|does} {s} plan to do?",
        "What is {p} great wish?",
        "What {do|does} {s} want most of all?",
        "{Do|Does} {s} have plans?",
        "What are {p} plans?",
        "What would {s} like to do before {s} {are|is} old?",
        "What is {p} hope for the future?",
    ],
    "food": [
        "What is {p} favourite dish?",
        "Which food {do|does} {s} like most?",
        "What should I cook for {o}?",
        "What {do|does} {s} like for dinner?",
        "What is {p} favorite food?",
        "What {are|is} {s} fond of eating?",
        "What tastes best to {o}?",
        "What would {s} like to eat?",
        "What makes {o} happy at the table?",
    ],
    "pet": [
        "{Do|Does} {s} have a pet?",
        "{Do|Does} {s} have any pets?",
        "{Do|Does} {s} keep an animal?",
        "What is {p} pet?",
        "Which creature {do|does} {s} take care of?",
        "What animal {do|does} {s} own?",
        "Which animal is {p} own?",
        "Who lives with {o}?",
        "What kind of animal {do|does} {s} have at home?",
    ],
    "colour": [
        "What is {p} favorite color?",
        "Which color {do|does} {s} like best?",
        "What colour {do|does} {s} love?",
        "What colour are {p} clothes?",
        "Which colour would {s} choose?",
        "What colour {do|does} {s} like?",
        "In what colour {do|does} {s} dress?",
        "Which colour is {p} favourite?",
    ],
    "age": [
        "What age {are|is} {s}?",
        "How many summers {have|has} {s} seen?",
        "How many years old {are|is} {s}?",
        "Tell me {p} age.",
        "How old did {s} turn last?",
    ],
    "teacher": [
        "Who taught {o} all this?",
        "From whom {have|has} {s} learned the craft?",
        "What was the name of {p} teacher?",
        "Who was {p} master?",
        "To whom {do|does} {s} owe what {s} {know|knows}?",
        "Where did {s} learn all that, and from whom?",
        "Who showed {o} the trade?",
        "Who made {o} what {s} {are|is}?",
    ],
    "secret": [
        "{Do|Does} {s} have a secret?",
        "What {are|is} {s} hiding?",
        "What {do|does} {s} hide?",
        "What {do|does} {s} tell no one?",
        "What secret {do|does} {s} guard?",
        "What is it that {s} {keep|keeps} hidden?",
        "What did {s} hide long ago?",
        "What do people not know about {o}?",
    ],
    "hobby": [
        "What {do|does} {s} like to do?",
        "What {do|does} {s} like doing in {p} free time?",
        "{Do|Does} {s} have a hobby?",
        "What are {p} hobbies?",
        "What is {p} favourite pastime?",
        "What is fun for {o}?",
        "What {do|does} {s} do when work is done?",
        "What {do|does} {s} do on a free day?",
        "How {do|does} {s} pass the time?",
        "What {do|does} {s} enjoy doing?",
    ],
    "market": [
        "When {are|is} {s} at the market?",
        "What day {do|does} {s} go to market?",
        "On which day {do|does} {s} sell at the market?",
        "When can people buy from {o}?",
        "Which day is {p} market day?",
    ],
}
"""Further questions, by key."""

YES_NO: Mapping[str, Sequence[str]] = {
    "kind": ["{Are|Is} {s} {v}?"],
    "home": ["{Do|Does} {s} live in {v}?", "Is {p} home in {v}?"],
    "work": ["{Do|Does} {s} work as {v}?", "{Are|Is} {s} {v} by trade?"],
    "treasure": ["{Do|Does} {s} own {v}?", "{Do|Does} {s} carry {v}?"],
    "friend": ["Is {v} {p} friend?", "{Do|Does} {s} trust {v}?"],
    "rival": ["Is {v} {p} rival?", "{Do|Does} {s} quarrel with {v}?"],
    "fear": ["{Are|Is} {s} afraid of {v}?", "{Do|Does} {s} fear {v}?"],
    "plan": ["{Do|Does} {s} want to {v}?", "{Are|Is} {s} planning to {v}?"],
    "food": ["{Do|Does} {s} like {v}?", "Is {v} what {s} {like|likes} best?"],
    "pet": ["{Do|Does} {s} have {v}?"],
    "colour": ["{Do|Does} {s} like {v}?", "Is {p} favourite colour {v}?"],
    "age": ["{Are|Is} {s} {v} years old?", "{Are|Is} {s} {v}?"],
    "teacher": ["Was {v} {p} teacher?", "Did {v} teach {o}?"],
    "secret": ["Did {s} hide {v}?"],
    "hobby": ["{Do|Does} {s} like {v}?", "Is {v} {p} hobby?"],
    "market": ["{Do|Does} {s} go to market {v}?", "{Are|Is} {s} at the market {v}?"],
}
"""Questions about a value, true or not."""

WHY: Mapping[str, Sequence[tuple[str, Sequence[str]]]] = {
    "home": [
        (
            "Do you like it there?",
            ["Yes, it is quiet, and I like it.", "I would not live anywhere else."],
        ),
        (
            "What is it like there?",
            ["Quiet, and the people are kind.", "Small, but I know every stone of it."],
        ),
        (
            "Have you always lived there?",
            ["As long as I can remember.", "Not always, but I will never leave."],
        ),
    ],
    "work": [
        (
            "Is that hard?",
            ["It is hard work, but I like it.", "Some days are long, but I am good at it."],
        ),
        (
            "Do you like your work?",
            ["I would not do anything else.", "Most days, yes. It feeds me."],
        ),
    ],
    "treasure": [
        ("Why is it so dear to you?", ["My grandmother gave it to me.", "It brings me luck."]),
        (
            "Where did you get it?",
            ["I found it when I was a child.", "It was a gift from an old friend."],
        ),
    ],
    "friend": [
        (
            "How did you meet?",
            ["We met on a rainy day, long ago.", "We grew up on the same street."],
        ),
        (
            "What is your friend like?",
            ["Kind, and a little loud.", "Quiet, but always there when I need help."],
        ),
    ],
    "rival": [
        (
            "Why do you quarrel?",
            ["It began with a lie, and it never ended.", "We both wanted the same thing."],
        ),
        (
            "What happened between you?",
            ["I would rather not talk about it.", "It is an old story about a broken promise."],
        ),
    ],
    "fear": [
        (
            "Why is that?",
            [
                "I cannot say why. It has been so since I was a child.",
                "I had a bad night once, and I never forgot it.",
            ],
        ),
        ("Since when?", ["Since I was very small.", "For many years now."]),
    ],
    "plan": [
        (
            "Why do you want that?",
            ["I have dreamed of it since I was small.", "I promised it to somebody."],
        ),
        (
            "When will you do it?",
            ["Next spring, if all goes well.", "As soon as I have the money."],
        ),
    ],
    "food": [
        ("Can you cook it?", ["I make it myself, every Sunday.", "Yes, my mother showed me how."]),
        ("Is it good?", ["It is the best thing in the world.", "Yes, come and try some."]),
    ],
    "pet": [
        ("Is it friendly?", ["Very. It follows me everywhere.", "Only when it is hungry."]),
        (
            "Is it a good pet?",
            ["The best. It sleeps at my feet every night.", "Yes, though it steals my bread."],
        ),
    ],
    "colour": [
        ("Why that colour?", ["It makes me happy.", "It is the colour of my door at home."]),
    ],
    "hobby": [
        ("Are you good at it?", ["I get better every day.", "Good enough to enjoy it."]),
        ("How often do you do that?", ["Every evening, when it is quiet.", "As often as I can."]),
    ],
}
"""What people ask next about a fact, and answers that fit any value of it."""

SMALL_TALK: Sequence[tuple[Sequence[str], Sequence[str]]] = [
    (
        [
            "How are you?",
            "How are you today?",
            "How do you do?",
            "How is it going?",
            "Are you well?",
            "How are things?",
        ],
        [
            "I am well, thank you. How are you?",
            "Very well, thank you.",
            "A little tired today, but happy to see you.",
            "I am fine. And you?",
            "I cannot complain. It is a good day.",
        ],
    ),
    (
        ["I am fine too.", "I am well.", "I am happy today.", "I had a good day."],
        ["I am glad to hear that.", "That is good to hear.", "That makes me happy."],
    ),
    (
        ["I am sad today.", "I had a bad day.", "I am tired.", "I feel lonely."],
        [
            "I am sorry to hear that. Sit down and rest a while.",
            "I am sorry. Do you want to talk about it?",
            "Then let us have some tea together.",
        ],
    ),
    (
        [
            "What a beautiful day.",
            "The weather is nice today.",
            "It is raining again.",
            "It is cold today.",
            "It is very hot today.",
        ],
        [
            "Yes, it is. Let us go for a walk.",
            "I like this kind of weather.",
            "Then let us stay by the fire and talk.",
        ],
    ),
    (
        ["I like talking with you.", "You are very kind.", "You are funny.", "I like you."],
        ["I like talking with you too.", "That is kind of you.", "Thank you. You are kind too."],
    ),
    (
        ["Is that true?", "Really?", "Are you sure?", "I do not believe you."],
        ["Yes, it is true.", "Every word of it.", "Yes, ask anyone.", "I am quite sure."],
    ),
    (
        ["That is interesting.", "How interesting.", "I did not know that.", "I see."],
        ["I am glad you think so.", "There is more to tell, if you like.", "Now you know."],
    ),
    (
        ["Tell me a joke.", "Do you know a joke?", "Make me laugh."],
        [
            "Why did the hen cross the road? To get to the other side.",
            "I know only old jokes, and they are not very good.",
        ],
    ),
    (
        ["What did you do today?", "How was your day?", "Did you have a good day?"],
        [
            "I got up early and worked until noon.",
            "I took a long walk and thought about many things.",
            "Not much. It was a quiet day.",
        ],
    ),
    (
        ["Are you busy?", "Do you have time to talk?", "Can we talk?"],
        ["I always have time for you.", "Yes, sit down. What is it?", "I can rest for a while."],
    ),
    (
        ["Can you help me?", "I need your help.", "Will you help me?"],
        ["Of course. What can I do for you?", "If I can. What is it?", "Tell me what you need."],
    ),
    (
        ["Are you happy?", "Do you like your life?", "Is life good?"],
        ["Most days, yes.", "I have all that I need.", "I am, when I have company."],
    ),
    (
        ["Shall we go for a walk?", "Do you want to take a walk?", "Let us go outside."],
        [
            "Yes, let us go. I will take my coat.",
            "With pleasure. I know a good path.",
            "Not today, but thank you.",
        ],
    ),
    (
        ["What should I do?", "What do you think?", "Do you have advice for me?"],
        [
            "Sleep first, and think in the morning.",
            "Ask a friend, and listen well.",
            "I would wait a little and see.",
        ],
    ),
    (
        ["I brought you something.", "I have a gift for you.", "This is for you."],
        [
            "For me? How kind of you!",
            "Thank you. I will take good care of it.",
            "You should not have done that. Thank you.",
        ],
    ),
    (
        ["Sorry.", "I am sorry.", "Excuse me."],
        ["There is nothing to be sorry for.", "It is all right.", "Do not worry about it."],
    ),
    (
        ["Will you remember me?", "Do not forget me.", "I will come back tomorrow."],
        ["I never forget a friend.", "I will be here.", "Then I will wait for you."],
    ),
    (
        ["Do you remember what I asked?", "Were you listening?", "Are you still there?"],
        ["Yes, I am listening.", "I am here. Go on.", "Of course. Please go on."],
    ),
]
"""Small talk that fits any character: what the user says, and answers to it."""

LEADS: Sequence[str] = [
    "Tell me, {}",
    "Please tell me, {}",
    "So, {}",
    "By the way, {}",
    "And {}",
    "One more question: {}",
    "May I ask, {}",
    "I would like to know, {}",
    "Say, {}",
    "Well, {}",
    "Oh, and {}",
    "Now, {}",
    "I was wondering, {}",
    "Hello! {}",
    "Hi. {}",
]
"""What may stand before a question; after a comma or a colon it goes on in lower case."""
