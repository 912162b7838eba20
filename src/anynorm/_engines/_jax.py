def normalize(call): return None
def statistics(call): return None
def pull(call,s,dy): return None
