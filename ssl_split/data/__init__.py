"""Images, their partition over clients, random views, and the order in which they are drawn."""
