-- ARGV: now or '', hold, life, draws, since
if has_forgotten(ARGV[5]) then return {2} end
local record = own_record()
local draws = locate(cmsgpack.unpack(ARGV[4]), now)
if record and record[1] == 0 then return take(record, draws) end
return untaken(told(0, draws))
