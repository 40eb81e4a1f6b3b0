"""Things, kinds of things and people, for tasks that tell of somebody's belongings."""

# Plural names by kind; no name stands under two kinds.
KINDS: dict[str, tuple[str, ...]] = {
    "fruits": ("apples", "pears", "plums", "cherries", "lemons", "bananas", "peaches", "melons", "figs", "mangoes"),
    "animals": ("dogs", "cats", "rabbits", "goats", "horses", "parrots", "turtles", "ducks", "hamsters", "sheep"),
    "books": ("atlases", "novels", "cookbooks", "dictionaries", "diaries", "textbooks", "comics", "biographies"),
    "clothes": ("shirts", "scarves", "socks", "coats", "skirts", "gloves", "sweaters", "hats", "jackets", "belts"),
    "furniture": ("chairs", "desks", "beds", "sofas", "stools", "benches", "shelves", "wardrobes", "armchairs"),
    "tools": ("hammers", "saws", "drills", "chisels", "wrenches", "pliers", "screwdrivers", "axes", "rakes"),
    "instruments": ("violins", "flutes", "drums", "trumpets", "guitars", "harps", "cellos", "pianos", "oboes"),
    "vehicles": ("bicycles", "trucks", "motorcycles", "buses", "tractors", "canoes", "sleds", "scooters", "vans"),
}
PEOPLE = (
    "my aunt",
    "my uncle",
    "my brother",
    "my sister",
    "my mother",
    "my father",
    "my cousin",
    "my neighbor",
    "my teacher",
    "my roommate",
)
