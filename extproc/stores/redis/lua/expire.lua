-- ARGV: now or '', '', most
local closed = sweep(ARGV[3])
store()
return closed
