-- ARGV: now or '', hold, life, draws
sweep(SWEEP)
local settled, record, is_over = is_settled(), own_record()
local draws = locate(cmsgpack.unpack(ARGV[4]))
if settled or (record and not is_over) then return untaken(told(1, draws, {})) end
if record then return untaken(told(0, draws)) end
return take({0, 0}, draws)
