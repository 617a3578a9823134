"""What developing this node needs, and no user of it: none of this is part of an installed package."""
