-- ARGV: now or '', hold, life, draws
local record, is_over = own_record()
local draws = locate(cmsgpack.unpack(ARGV[4]))
if record and not is_over then return take(record, draws) end
return untaken(told(0, draws))
