"""The pictures of a report: each module draws one, from tables to inline SVG."""
