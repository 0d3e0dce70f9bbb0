-- ARGV: now or '', hold, life, draws, since
if has_forgotten(ARGV[5]) then return {2} end
sweep(SWEEP)
local settled, record = is_settled(), own_record()
local draws = locate(cmsgpack.unpack(ARGV[4]), now)
if settled or (record and record[1] == 0) then return untaken(told(1, draws, {})) end
if record then return untaken(told(0, draws)) end
return take({0}, draws)
