@echo off
rem The test command of Windows: style, types, tests. Arguments are passed to pytest, e.g. tests\run.bat tests\core
setlocal
cd /d "%~dp0.."
call install.bat --dev --quick
if errorlevel 1 exit /b 1
set "PYTHON=env\Scripts\python.exe"
set "PYTHONUTF8=1"
set "OMP_NUM_THREADS=1"
set "MKL_NUM_THREADS=1"
set "TOKENIZERS_PARALLELISM=false"
%PYTHON% -m playwright install chromium
if errorlevel 1 exit /b 1
%PYTHON% -m ruff check .
if errorlevel 1 exit /b 1
%PYTHON% -m ruff format --check .
if errorlevel 1 exit /b 1
%PYTHON% -m mypy
if errorlevel 1 exit /b 1
%PYTHON% -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not root" %*
exit /b %errorlevel%
