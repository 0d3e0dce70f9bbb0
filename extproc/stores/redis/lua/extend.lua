-- ARGV: now or '', hold, life, draws, since
locate(ARGV[4], now)
if has_forgotten(ARGV[5], began) then return {2} end
local record, note = own_record()
if not record or record[1] ~= 0 then return untaken(told(0)) end
lack(record)
local all, fit = told(1)
if fit then return give(record, note, all) end
all[1] = 0
return untaken(all)
