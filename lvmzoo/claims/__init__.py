"""What models say of regions: which communicate, in which direction, how late, through how many dimensions."""
