"""Named clusters that live on by themselves: started, listed, reached and ended from anywhere."""
