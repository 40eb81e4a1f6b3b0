"""Tables: on the page, in the paper's layouts, and as CSV, Markdown and LaTeX."""
